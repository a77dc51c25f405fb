// Keeps the part of a page that changes up to date. Pages read without it.
// It never evaluates text: what it fetches is a page of the same hub, and it is taken over node by node.
"use strict";
(() => {
  const live = document.querySelector("[data-live]");
  if (!live || !window.EventSource || !window.DOMParser) return;
  const pulse = document.getElementById("pulse");
  const word = document.getElementById("word");
  let source = null;
  let isFetching = false;
  let isDue = false;

  const say = (text) => {
    if (pulse) pulse.textContent = text;
  };

  // Makes `old` like `fresh` and keeps what is alike, so that the focus, a selection and what was opened stay.
  const morph = (old, fresh) => {
    const isSame = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");
    let at = old.firstChild;
    for (const next of Array.from(fresh.childNodes)) {
      if (next.id && at && !isSame(at, next)) {
        const moved = Array.from(old.childNodes).find((known) => isSame(known, next));
        if (moved) old.insertBefore(moved, at), (at = moved);
      }
      if (!at || !isSame(at, next)) {
        old.insertBefore(next, at);
        continue;
      }
      if (at.nodeType === Node.ELEMENT_NODE) {
        for (const { name } of Array.from(at.attributes)) {
          if (!next.hasAttribute(name) && name !== "open") at.removeAttribute(name);
        }
        for (const { name, value } of Array.from(next.attributes)) {
          if (at.getAttribute(name) !== value) at.setAttribute(name, value);
        }
        morph(at, next);
      } else if (at.nodeValue !== next.nodeValue) {
        at.nodeValue = next.nodeValue;
      }
      at = at.nextSibling;
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  };

  const announce = () => {
    const told = live.querySelector("[data-announce]");
    const text = told ? told.textContent.trim() : "";
    if (word && text && word.dataset.said !== text) {
      if (word.dataset.said) word.textContent = text;
      word.dataset.said = text;
    }
  };

  const refresh = async () => {
    if (isFetching) {
      isDue = true;
      return;
    }
    isFetching = true;
    try {
      const answer = await fetch(live.dataset.live, { headers: { "x-hms-part": "live" }, cache: "no-store", redirect: "error" });
      if (answer.status === 401) {
        stop();
        location.reload();
        return;
      }
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        morph(live, page.body);
        live.dataset.updates = String(Number(live.dataset.updates || 0) + 1);
        announce();
        say("live");
      }
    } catch {
      say("no connection; trying again");
    } finally {
      isFetching = false;
      if (isDue) {
        isDue = false;
        refresh();
      }
    }
  };

  const start = () => {
    if (source) return;
    source = new EventSource("/dashboard/live");
    source.onopen = () => {
      say("live");
      refresh();
    };
    source.onerror = () => {
      say("no connection; trying again");
      // A browser does not come back by itself after a refusal: the session may have ended.
      if (source && source.readyState === EventSource.CLOSED) {
        stop();
        refresh();
        setTimeout(start, 5000);
      }
    };
    source.addEventListener("change", refresh);
    source.addEventListener("tick", refresh);
  };

  const stop = () => {
    if (source) source.close();
    source = null;
  };

  // A browser opens few connections to one host: pages that nobody sees give theirs back.
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", () => document.hidden || start());
  announce();
  if (!document.hidden) start();
})();
