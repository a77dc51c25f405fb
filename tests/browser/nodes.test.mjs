// Two hubs on one PostgreSQL store: a browser that goes from one to the other, and the page that lists them.

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Database, Hub, Partner, Watched, audit, browse, shoot, until } from "./world.mjs";

const PARTNERS = 6;

let database;
let hubs = [];
let partners = [];
let browser;

before(async () => {
  [database, browser] = await Promise.all([Database.start(), browse()]);
  const settings = (name) => ({ HMS_ESS_STORE: database.url, HMS_ESS_NODE_NAME: name, HMS_ESS_NODE_LEASE: "2s" });
  const first = await Hub.start({}, settings("records-hall"));
  hubs = [first];
  hubs.push(await Hub.start({}, settings("court-house"), join(first.dir, "seal.key")));
  for (let number = 0; number < PARTNERS; number += 1) {
    const partner = await new Partner(`COUNTY-${number}`).start();
    partners.push(partner);
    await first.must("POST", "/v1/partners", { id: partner.id, channel: "webhook", url: partner.url });
  }
  await until("both hubs to serve some", async () => {
    const { items } = await first.must("GET", "/v1/nodes");
    return items.length === 2 && items.every((node) => node.partners > 0);
  });
});

after(async () => {
  await browser?.close();
  for (const partner of partners) partner.stop();
  for (const hub of hubs) await hub.stop();
  await database?.stop();
});

test("a browser goes from hub to hub without noticing, and the page of hubs is accessible and lives", async () => {
  const [a, b] = hubs;
  // The other hub is another address here; behind a balancer it is the same. The stream of a hub that is killed breaks off.
  const allowed = [new RegExp(`^foreign: ${b.url}/`)];
  const watched = await Watched.open(browser, a, { allowed });
  const { page } = watched;
  await watched.signIn();
  await page.goto(`${b.url}/dashboard`);
  await page.getByRole("link", { name: "Hubs", exact: true }).click();
  await page.waitForURL(`${b.url}/dashboard/nodes`);
  const main = page.locator("main");
  await until("both to be listed", async () => (await main.innerText()).includes("2 hubs, 2 live"));
  const rows = await page.locator("tbody tr").allInnerTexts();
  assert.ok(rows[0].includes("records-hall") && rows[0].includes("signs the ledger"), rows[0]);
  assert.ok(rows[1].includes("court-house") && rows[1].includes("this one"), rows[1]);
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    assert.deepEqual(await audit(page), [], colorScheme);
    for (const width of [320, 768, 1280]) {
      await page.setViewportSize({ width, height: 900 });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(wide <= 0, `${wide} px too wide at ${width}`);
      await shoot(page, `hubs-${width}-${colorScheme}`);
    }
  }
  // A form of one hub's page is sent to the other, and what came of it is told by the first.
  await page.goto(`${a.url}/dashboard/partners/COUNTY-0`);
  const csrf = await page.locator('input[name="csrf"]').first().inputValue();
  const sent = { form: { csrf, reason: "a storm" }, maxRedirects: 0 };
  const answered = await page.context().request.post(`${b.url}/dashboard/partners/COUNTY-0/pause`, sent);
  assert.equal(answered.status(), 303);
  await page.goto(`${a.url}/dashboard/partners/COUNTY-0`);
  assert.ok((await main.innerText()).includes("COUNTY-0 is paused; its events wait."));
  await watched.close();
});

test("an open page tells of a hub that is lost, and the browser stays signed in", async () => {
  const [a, b] = hubs;
  const watched = await Watched.open(browser, a, { allowed: [new RegExp(`^foreign: ${b.url}/`)] });
  const { page } = watched;
  await watched.signIn();
  await page.goto(`${b.url}/dashboard/nodes`);
  await page.locator("#live[data-updates]").waitFor();
  a.process.kill("SIGKILL");
  await page.locator("main").getByText("records-hall is not heard of").waitFor();
  await shoot(page, "hubs-lost");
  assert.deepEqual(await audit(page), []);
  await page.locator("caption", { hasText: "1 hub, 1 live" }).waitFor();
  await page.goto(`${b.url}/dashboard/audit`);
  assert.ok((await page.locator("main").innerText()).includes("partner.pause"));
  await watched.close();
});
