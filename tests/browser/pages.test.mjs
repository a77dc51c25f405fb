// Every page in a real browser: it reads, it is accessible in both themes, it fits every width, it obeys its own policy.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Hub, Partner, Watched, audit, browse, furnish, shoot, until, webhookTarget } from "./world.mjs";

const WIDTHS = [320, 480, 768, 1024, 1280, 1920];
const PAGES = [
  ["overview", "/dashboard", "not acknowledged"],
  ["events", "/dashboard/events", "RULE-COURT-DEADLINE-V3"],
  ["search", "/dashboard/events?text=alert(1)", "Searched to the beginning of the log"],
  ["event", "/dashboard/events/RULE-COURT-DEADLINE-V3", "acknowledged"],
  ["hostile event", "/dashboard/events/FILING-FEE-V1", "alert(1)"],
  ["redacted event", "/dashboard/events/NAMED-MINOR-V1", "a minor is named"],
  ["partners", "/dashboard/partners", "7 partners"],
  ["partner", "/dashboard/partners/LAW-FIRM-SYS", "the database is down"],
  ["partner with dead letters", "/dashboard/partners/CONTRACTOR-9", "unknown rule"],
  ["sent", "/dashboard/partners/COURT-CAL/sent?number=1", "RULE-COURT-DEADLINE-V2"],
  ["bridges", "/dashboard/bridges", "RULE-COURT-DEADLINE/3-to-1"],
  ["sent and redacted", "/dashboard/partners/COUNTY-KIOSK/sent?number=4", "The payload of this event is gone"],
  ["dead letters", "/dashboard/dead-letters", "CONTRACTOR-9"],
  ["ledger", "/dashboard/ledger", "receipts"],
  ["escalations", "/dashboard/escalations", "duty-room"],
  ["holds", "/dashboard/holds", "Doe v. County"],
  ["audit", "/dashboard/audit", "partner.pause"],
];

let hub;
let partners = {};
let room;
let browser;
/** One signed-in page for all that only looks. */
let watched;

before(async () => {
  room = await new Partner("DUTY-ROOM").start();
  const targets = { "duty-room": webhookTarget(room.url), "old-pager": webhookTarget("http://127.0.0.1:9/") };
  [hub, browser] = await Promise.all([Hub.start(targets), browse()]);
  partners = await furnish(hub);
  // Each page is looked at once those on duty were told.
  await until("the duty room to be told", () => room.received.length > 1);
  await until("what was told to be on record", async () => (await hub.must("GET", "/v1/escalations")).items.some((one) => one.told.length > 0));
  watched = await Watched.open(browser, hub);
  await watched.signIn();
});

after(async () => {
  const complaint = watched?.close();
  await complaint?.catch(() => {});
  await browser?.close();
  for (const partner of [...Object.values(partners), room]) partner?.stop();
  await hub?.stop();
  await complaint;
});

for (const [name, path, word] of PAGES) {
  test(`the page ${name} reads, fits, and is accessible in both themes`, async () => {
    const { page } = watched;
    await page.emulateMedia({ colorScheme: "light" });
    await page.setViewportSize({ width: 1280, height: 900 });
    const response = await page.goto(hub.url + path);
    assert.equal(response.status(), 200);
    const bytes = (await response.body()).length;
    assert.ok(bytes < 100 * 1024, `${bytes} bytes`);
    assert.ok((await page.locator("main").innerText()).includes(word), `${word} is not on the page`);
    await page.locator("details").evaluateAll((all) => all.forEach((one) => (one.open = true)));
    assert.deepEqual(await audit(page), [], "light");
    for (const width of WIDTHS) {
      await page.setViewportSize({ width, height: 900 });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(wide <= 0, `${wide} px too wide at ${width}`);
      if (width === 320 || width === 1280) await shoot(page, `${name}-${width}`);
    }
    await page.emulateMedia({ colorScheme: "dark" });
    assert.deepEqual(await audit(page), [], "dark");
    await shoot(page, `${name}-dark`);
  });
}

test("every page reads without script", async () => {
  const plain = await Watched.open(browser, hub, { javaScriptEnabled: false });
  await plain.signIn();
  for (const [, path, word] of PAGES) {
    await plain.page.goto(hub.url + path);
    assert.ok((await plain.page.locator("main").innerText()).includes(word), `${word} is not on ${path}`);
  }
  await plain.close();
});

test("a page that is not there, and one that is refused, say what to do", async () => {
  const lost = await Watched.open(browser, hub, { allowed: [/404/] });
  await lost.signIn();
  assert.equal((await lost.page.goto(`${hub.url}/dashboard/nothing`)).status(), 404);
  assert.deepEqual(await audit(lost.page), []);
  await shoot(lost.page, "lost");
  await lost.page.getByRole("link", { name: "Go back" }).click();
  await lost.page.waitForURL(/\/dashboard$/);
  await lost.close();
});

test("what partners and publishers say is text, never markup", async () => {
  const { page } = watched;
  for (const path of ["/dashboard", "/dashboard/events/FILING-FEE-V1", "/dashboard/partners/LAW-FIRM-SYS", "/dashboard/dead-letters"]) {
    await page.goto(hub.url + path);
    assert.equal(await page.locator("main img, main script, main b").count(), 0, path);
  }
});

test("the new pages' forms, links and tables are reached by keyboard alone", async () => {
  const keys = await Watched.open(browser, hub);
  await keys.signIn();
  const { page } = keys;
  for (const [path, last] of [["/dashboard/holds", "Lift the hold"], ["/dashboard/escalations", "Test old-pager"], ["/dashboard/events?text=fee", "Search"]]) {
    await page.goto(hub.url + path);
    for (let steps = 0; ; steps += 1) {
      assert.ok(steps < 200, `${last} is not reached on ${path}`);
      await page.keyboard.press("Tab");
      if ((await page.evaluate(() => document.activeElement.textContent)) === last) break;
    }
    assert.equal(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), "solid", path);
  }
  await keys.close();
});

test("what was redacted is found by no text, and its page offers nothing that would fail", async () => {
  const { page } = watched;
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.goto(`${hub.url}/dashboard/events?text=Jane+Roe`);
  await page.getByText("No event whose payload contains that text").waitFor();
  await page.goto(`${hub.url}/dashboard/events?id=NAMED`);
  await page.getByText("by tok_").first().waitFor();
  await page.goto(`${hub.url}/dashboard/events/NAMED-MINOR-V1`);
  await page.getByText("neither sent again nor taken back").waitFor();
  assert.equal(await page.getByRole("button", { name: /Replay|Retract/ }).count(), 0);
  assert.ok(!(await page.locator("main").innerText()).includes("Jane Roe"));
});

test("the keyboard alone reaches the content, the navigation and a sign-out", async () => {
  const keys = await Watched.open(browser, hub);
  await keys.signIn();
  const { page } = keys;
  await page.goto(`${hub.url}/dashboard`);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  for (let steps = 0; ; steps += 1) {
    assert.ok(steps < 60, "the sign-out is not reached");
    await page.keyboard.press("Shift+Tab");
    if ((await page.evaluate(() => document.activeElement.textContent)) === "Sign out") break;
  }
  await page.keyboard.press("Enter");
  await page.waitForURL(/sign-in/);
  await keys.close();
});

test("nothing on a page moves while it loads", async () => {
  const still = await Watched.open(browser, hub);
  await still.signIn();
  const { page } = still;
  await page.addInitScript(() => {
    window.shift = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) window.shift += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
  });
  await page.goto(`${hub.url}/dashboard/ledger`);
  await page.locator("#live[data-updates]").waitFor();
  assert.equal(await page.evaluate(() => window.shift), 0);
  await still.close();
});
