// The report of a drill, as somebody opens it from a mail: a file, without a hub, in both themes and every width.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";

import { BIN, Hub, audit, browse, furnish, shoot } from "./world.mjs";

let hub;
let partners = {};
let browser;
let address;

before(async () => {
  [hub, browser] = await Promise.all([Hub.start(), browse()]);
  partners = await furnish(hub);
  const file = join(hub.dir, "drill.html");
  const env = { ...process.env, HOME: hub.dir, XDG_CONFIG_HOME: hub.dir };
  const words = ["drill", "--wait", "3s", "--out", file, "--reason", "<script>alert(1)</script>"];
  const code = await new Promise((done) => execFile(BIN, words, { env }, (error) => done(error?.code ?? 0)));
  assert.equal(code, 1, "some of these partners never acknowledge");
  address = pathToFileURL(file).href;
});

after(async () => {
  for (const partner of Object.values(partners)) partner.stop();
  await browser?.close();
  await hub?.stop();
});

test("the report reads without a hub or a script, fits, prints, and is accessible in both themes", async () => {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  const faults = [];
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("request", (request) => request.url() !== address && faults.push(`it fetched ${request.url()}`));
  await page.goto(address);
  const text = await page.locator("main").innerText();
  for (const word of ["Not complete", "COURT-CAL", "<script>alert(1)</script>", "What to do"]) {
    assert.ok(text.includes(word), `${word} is not in\n${text}`);
  }
  assert.deepEqual(await audit(page), [], "light");
  for (const width of [320, 768, 1280, 1920]) {
    await page.setViewportSize({ width, height: 900 });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    assert.ok(wide <= 0, `${wide} px too wide at ${width}`);
  }
  await shoot(page, "drill");
  await page.emulateMedia({ colorScheme: "dark" });
  assert.deepEqual(await audit(page), [], "dark");
  await shoot(page, "drill-dark");
  await page.emulateMedia({ media: "print" });
  await shoot(page, "drill-print");
  assert.deepEqual(faults, []);
  await context.close();
});
