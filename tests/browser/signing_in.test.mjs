// Signing in and out, and what a session is worth.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Hub, Watched, audit, browse, shoot } from "./world.mjs";

let hub;
let browser;

before(async () => {
  [hub, browser] = await Promise.all([Hub.start(), browse()]);
});

after(async () => {
  await browser?.close();
  await hub?.stop();
});

test("a browser that asks for the hub's root is led to the sign-in, and from there to the page that it wanted", async () => {
  const watched = await Watched.open(browser, hub);
  const { page } = watched;
  await page.goto(`${hub.url}/`);
  await page.waitForURL(/\/dashboard\/sign-in$/);
  assert.deepEqual(await audit(page), []);
  await shoot(page, "sign-in");
  await page.goto(`${hub.url}/dashboard/ledger`);
  await page.waitForURL(/next=%2Fdashboard%2Fledger/);
  await page.getByLabel("Access token").fill(hub.admin);
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/dashboard\/ledger$/);
  await watched.close();
});

test("a wrong token is refused in words, and the page stays usable", async () => {
  const watched = await Watched.open(browser, hub, { allowed: [/401/] });
  const { page } = watched;
  await page.goto(`${hub.url}/dashboard/sign-in`);
  await page.getByLabel("Access token").fill("hms_admin_wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").waitFor();
  assert.deepEqual(await audit(page), []);
  await page.getByLabel("Access token").fill(hub.admin);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("button", { name: "Sign out" }).waitFor();
  await watched.close();
});

test("the cookie is no token, no script reads it, and it never goes to another site", async () => {
  const watched = await Watched.open(browser, hub);
  await watched.signIn();
  const cookies = await watched.context.cookies();
  const [session] = cookies.filter((cookie) => cookie.name.includes("session"));
  assert.equal(session.name, "__Host-hms_session");
  assert.ok(session.httpOnly && session.secure && session.sameSite === "Strict" && session.path === "/");
  assert.match(session.value, /^[0-9a-f]{64}$/);
  assert.ok(!hub.admin.includes(session.value));
  assert.equal(await watched.page.evaluate(() => document.cookie), "");
  await watched.close();
});

test("a sign-out ends the session, also for a copy of its cookie", async () => {
  const watched = await Watched.open(browser, hub);
  await watched.signIn();
  const copied = await watched.context.cookies();
  await watched.page.getByRole("button", { name: "Sign out" }).click();
  await watched.page.waitForURL(/sign-in/);
  await watched.context.addCookies(copied);
  await watched.page.goto(`${hub.url}/dashboard/audit`);
  await watched.page.waitForURL(/sign-in/);
  await watched.close();
});

test("an open page turns to the sign-in once its token is revoked", async () => {
  const token = await hub.token("auditor");
  const watched = await Watched.open(browser, hub, { allowed: [/401/] });
  await watched.signIn(token);
  await watched.page.goto(`${hub.url}/dashboard`);
  await watched.page.locator("#live[data-updates]").waitFor();
  const known = (await hub.must("GET", "/v1/tokens")).items.filter((one) => one.role === "auditor");
  await hub.ask("DELETE", `/v1/tokens/${known[0].id}`);
  await watched.page.waitForURL(/sign-in/);
  await watched.close();
});

test("the theme is kept in a cookie and wins over the machine's", async () => {
  const watched = await Watched.open(browser, hub, { colorScheme: "light" });
  await watched.signIn();
  const { page } = watched;
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.equal(await paper(), "rgb(255, 255, 255)");
  await page.getByRole("button", { name: "Dark" }).click();
  await page.waitForURL(/\/dashboard$/);
  assert.notEqual(await paper(), "rgb(255, 255, 255)");
  await page.goto(`${hub.url}/dashboard/ledger`);
  assert.notEqual(await paper(), "rgb(255, 255, 255)");
  await page.getByRole("button", { name: "Auto" }).click();
  await page.waitForURL(/\/dashboard\/ledger$/);
  assert.equal(await paper(), "rgb(255, 255, 255)");
  await watched.close();
});
