// Pages follow what happens: an ACK is seen within a second, and what the reader does meanwhile is left alone.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Hub, Partner, Watched, browse, until } from "./world.mjs";

let hub;
let browser;
let partner;

before(async () => {
  [hub, browser] = await Promise.all([Hub.start(), browse()]);
  partner = await new Partner("COURT-CAL").start();
  partner.manner = "silent";
  const ack = { by: "callback", within: "10m" };
  await hub.must("POST", "/v1/partners", { id: "COURT-CAL", channel: "webhook", url: partner.url, ack });
});

after(async () => {
  await browser?.close();
  partner?.stop();
  await hub?.stop();
});

/** How long a page takes to show what the hub has just answered for. */
async function seen(page, act, isThere) {
  await page.evaluate((text) => {
    window.seenAt = 0;
    const look = () => {
      if (!window.seenAt && document.getElementById("live").innerText.includes(text)) window.seenAt = Date.now();
    };
    new MutationObserver(look).observe(document.getElementById("live"), { subtree: true, childList: true, characterData: true });
    look();
  }, isThere);
  assert.equal(await page.evaluate(() => window.seenAt), 0, `${isThere} was there before`);
  await act();
  const done = Date.now();
  const at = await until(`"${isThere}" on the page`, () => page.evaluate(() => window.seenAt), 10_000);
  return at - done;
}

test("an ACK is on the event's page and on the overview within a second", async () => {
  const watched = await Watched.open(browser, hub);
  await watched.signIn();
  const { page } = watched;
  await hub.publish("RULE-A-V1", 1);
  await until("the partner to have it", () => partner.received.length > 0);
  await page.goto(`${hub.url}/dashboard/events/RULE-A-V1`);
  await page.locator("#live[data-updates]").waitFor();
  const acknowledge = () => hub.must("POST", "/v1/acks", { ack: "RULE-A-V1", partner: "COURT-CAL" });
  const ms = await seen(page, acknowledge, "by callback, attempt 1");
  console.log(`# an ACK was on the event's page after ${ms} ms`);
  assert.ok(ms < 1_000, `${ms} ms`);
  await page.goto(`${hub.url}/dashboard`);
  await page.locator("#live[data-updates]").waitFor();
  const onOverview = await seen(page, () => hub.publish("RULE-B-V1", 1), "2 events in the log");
  assert.ok(onOverview < 1_000, `${onOverview} ms`);
  await watched.close();
});

test("an update leaves the focus, what was opened and what was typed alone", async () => {
  const watched = await Watched.open(browser, hub);
  await watched.signIn();
  const { page } = watched;
  await page.goto(`${hub.url}/dashboard/partners/COURT-CAL`);
  await page.locator("#live[data-updates]").waitFor();
  await page.locator("#document summary").click();
  await page.locator("#pause-reason").fill("half a sent");
  await page.locator("#document summary").focus();
  const before = Number(await page.locator("#live").getAttribute("data-updates"));
  await hub.publish("RULE-C-V1", 1);
  await page.getByText("RULE-C-V1").first().waitFor();
  assert.ok(Number(await page.locator("#live").getAttribute("data-updates")) > before);
  assert.equal(await page.locator("#document").getAttribute("open"), "");
  assert.equal(await page.locator("#pause-reason").inputValue(), "half a sent");
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "SUMMARY");
  await watched.close();
});

test("a burst of changes reaches a page as a few updates", async () => {
  const watched = await Watched.open(browser, hub);
  await watched.signIn();
  const { page } = watched;
  await page.goto(`${hub.url}/dashboard/events`);
  await page.locator("#live[data-updates]").waitFor();
  const updates = async () => Number(await page.locator("#live").getAttribute("data-updates"));
  const [before, start] = [await updates(), Date.now()];
  for (let number = 1; number <= 60; number += 1) await hub.publish(`BURST-V${number}`, 1);
  await page.getByText("BURST-V60").first().waitFor();
  const seconds = (Date.now() - start) / 1_000;
  const happened = (await updates()) - before;
  assert.ok(happened <= Math.ceil(seconds / 0.6) + 1, `${happened} updates in ${seconds} s`);
  await watched.close();
});

test("a page says so when the hub is gone", async () => {
  const other = await Hub.start();
  const watched = await Watched.open(browser, other, { allowed: [/Failed to load|ERR_/] });
  await watched.signIn();
  await watched.page.locator("#live[data-updates]").waitFor();
  await other.stop();
  await watched.page.getByText("no connection").waitFor();
  await watched.close();
});
