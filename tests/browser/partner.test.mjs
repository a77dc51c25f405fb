// A partner's own view: what it was sent, what it missed, and nothing of anybody else's.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Hub, Watched, audit, browse, furnish, shoot, until } from "./world.mjs";

let hub;
let partners = {};
let browser;
let watched;

before(async () => {
  [hub, browser] = await Promise.all([Hub.start(), browse()]);
  partners = await furnish(hub);
  const token = await hub.token("partner", { partner: "CONTRACTOR-9" });
  watched = await Watched.open(browser, hub, { allowed: [/403/, /404/] });
  await watched.signIn(token);
});

after(async () => {
  const complaint = watched?.close();
  await complaint?.catch(() => {});
  await browser?.close();
  for (const partner of Object.values(partners)) partner.stop();
  await hub?.stop();
  await complaint;
});

test("it lands on its own page and is shown nothing of others", async () => {
  const { page } = watched;
  await page.waitForURL(/partners\/CONTRACTOR-9$/);
  assert.deepEqual(await page.getByRole("navigation").getByRole("link").allInnerTexts(), ["Deliveries"]);
  const text = await page.locator("body").innerText();
  for (const other of ["COURT-CAL", "LAW-FIRM-SYS", "VENDOR-37"]) assert.ok(!text.includes(other), other);
  assert.equal(await page.getByRole("button", { name: /Pause/ }).count(), 0);
  assert.deepEqual(await audit(page), []);
  await shoot(page, "own-view");
});

test("every other page is refused", async () => {
  const paths = ["/escalations", "/holds", "/events/RULE-COURT-DEADLINE-V2/packet", "/events", "/events/RULE-COURT-DEADLINE-V3", "/partners", "/partners/COURT-CAL", "/partners/COURT-CAL/sent?number=1"];
  for (const path of [...paths, "/bridges", "/dead-letters", "/ledger", "/audit"]) {
    assert.equal((await watched.page.goto(`${hub.url}/dashboard${path}`)).status(), 403, path);
  }
});

test("it sees the bytes that it was sent", async () => {
  const { page } = watched;
  await page.goto(`${hub.url}/dashboard/partners/CONTRACTOR-9`);
  await page.getByRole("link", { name: "What was sent under number 1" }).click();
  await page.getByText('"id": "RULE-COURT-DEADLINE-V2"').waitFor();
});

test("it has what it missed sent again, a test, and another secret", async () => {
  const { page } = watched;
  partners["CONTRACTOR-9"].manner = "ack";
  await page.goto(`${hub.url}/dashboard/partners/CONTRACTOR-9`);
  await page.getByRole("button", { name: "Send a test" }).click();
  await page.locator(".notice").getByText("acknowledged").waitFor();
  await page.locator("#redrive-reason").fill("we are back");
  await page.getByRole("button", { name: "Redrive what it missed" }).click();
  await page.locator(".notice").getByText("tried again").waitFor();
  await hub.settles("RULE-COURT-DEADLINE-V3", "CONTRACTOR-9", "ack");
  await page.locator("#resend-event").fill("RULE-COURT-DEADLINE-V3");
  await page.locator("#resend-reason").fill("once more");
  await page.getByRole("button", { name: "Send it again" }).click();
  await page.locator(".notice").getByText("goes again").waitFor();
  const isReplay = ({ headers }) => headers["x-hms-replay"] === "true";
  await until("the replay", () => partners["CONTRACTOR-9"].received.some(isReplay));
  await page.locator("#rotate-reason").fill("a new one");
  await page.getByRole("button", { name: "Rotate the secret" }).click();
  assert.match(await page.locator(".notice pre").innerText(), /^whsec_/);
});

test("an event that was not for it can't be asked for", async () => {
  const { page } = watched;
  await hub.must("PUT", "/v1/partners/CONTRACTOR-9", { url: partners["CONTRACTOR-9"].url, channel: "webhook", subscribe: ["RULE-*"] });
  await hub.publish("SECRET-V1", 1);
  await page.goto(`${hub.url}/dashboard/partners/CONTRACTOR-9`);
  await page.locator("#resend-event").fill("SECRET-V1");
  await page.locator("#resend-reason").fill("curious");
  await page.getByRole("button", { name: "Send it again" }).click();
  await page.getByText("there is no delivery of SECRET-V1").waitFor();
});
