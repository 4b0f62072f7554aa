// Keep the page up to date: fetch it again and change only what differs, so that progress bars glide, pictures stay and a
// model keeps turning.
"use strict";

{
  document.documentElement.classList.add("script"); // what needs a script is shown
  const TIMEOUT_MS = 8000;
  const pulse = document.getElementById("pulse");
  const live = document.getElementById("live");
  const voice = document.getElementById("voice");
  let timer, said = live?.dataset.say;

  function announce(text) {
    if (voice) voice.textContent = text ?? "";
  }

  function setStatus(state, text) {
    if (!pulse || pulse.dataset.state === state) return;
    pulse.dataset.state = state;
    pulse.textContent = text;
  }

  async function refresh() {
    clearTimeout(timer);
    if (document.hidden || !Number(live.dataset.every)) return;
    try {
      const answer = await fetch(location.href, { headers: { "x-refresh": "1" }, signal: AbortSignal.timeout(TIMEOUT_MS) });
      if (answer.status === 401) return location.reload();
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      // The last content stays readable while the database cannot be reached.
      const away = answer.status >= 500 && !live.querySelector(".message");
      if (!away && fresh) {
        morph(live, fresh);
        countSelected();
        document.title = page.title;
        // Only what somebody waits for is read out: a page that changes each second would never be silent.
        if (live.dataset.say !== said) announce((said = live.dataset.say));
        if (typeof Viewer === "function") startViewers();
      }
      live.classList.toggle("stale", away);
      if (answer.ok) setStatus("live", "live");
      else if (answer.status >= 500) setStatus("away", "the database cannot be reached");
    } catch {
      live.classList.add("stale");
      setStatus("away", "no answer");
    }
    await_next();
  }

  // A page that does not change says data-every="0".
  function await_next() {
    const every = Number(live.dataset.every);
    if (every) timer = setTimeout(refresh, 1000 * every);
  }

  // Make `old` like `fresh`. Children are matched by data-key if they have one, else by position and name.
  function morph(old, fresh) {
    if ("keep" in old.dataset) return; // somebody may be turning this model
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "data-broken" && name !== "open") old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) === value) continue;
      if (name === "src") old.removeAttribute("data-broken");
      old.setAttribute(name, value);
    }
    const keyed = new Map([...old.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
    let place = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const key = wanted.dataset?.key;
      let found = key ? keyed.get(key) : place;
      if (!key && found && (found.nodeName !== wanted.nodeName || found.dataset?.key)) found = null;
      if (!found) {
        old.insertBefore(document.importNode(wanted, true), place);
        continue;
      }
      if (found === place) place = place.nextSibling;
      else old.insertBefore(found, place);
      if (found.nodeType !== Node.ELEMENT_NODE) {
        if (found.nodeValue !== wanted.nodeValue) found.nodeValue = wanted.nodeValue;
      } else morph(found, wanted);
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  }

  const started = new WeakSet(document.querySelectorAll("[data-src]")); // viewer.js has started these
  function startViewers() {
    for (const stage of document.querySelectorAll("[data-src]")) {
      if (!started.has(stage)) new Viewer(stage);
      started.add(stage);
    }
  }

  // Copy buttons. Without https a browser has no clipboard for us, but for what is selected.
  document.addEventListener("click", async ({ target }) => {
    const button = target.closest?.("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch {
      const field = document.createElement("textarea");
      field.value = button.dataset.copy;
      button.after(field);
      field.select();
      document.execCommand("copy");
      field.remove();
      button.focus();
    }
    announce(`${button.textContent.trim()}: done`);
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1500);
  });

  // The boxes of a list.
  const boxes = () => [...document.querySelectorAll(".pick input")];
  function countSelected() {
    const label = document.querySelector("[data-selected]");
    const count = boxes().filter((box) => box.checked).length;
    if (label) label.textContent = `${count} selected`;
  }
  document.addEventListener("change", ({ target }) => target.matches(".pick input") && countSelected());
  document.addEventListener("click", ({ target }) => {
    if (!target.matches?.("[data-select]")) return;
    const all = boxes();
    const wanted = !all.every((box) => box.checked);
    for (const box of all) box.checked = wanted;
    countSelected();
  });

  // A slash goes to the field that finds jobs.
  document.addEventListener("keydown", (event) => {
    const field = document.querySelector("[aria-keyshortcuts='/']");
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || !field) return;
    if (event.target.closest("input, select, textarea, [contenteditable], dialog, .model")) return;
    event.preventDefault();
    field.select();
    field.focus();
  });

  // A picture that is missing in its store, or that the policy blocks, reveals the placeholder behind it.
  const broken = (image) => image.setAttribute("data-broken", "");
  document.addEventListener("error", (event) => event.target.nodeName === "IMG" && broken(event.target), true);
  for (const image of document.images) if (image.complete && !image.naturalWidth && image.loading !== "lazy") broken(image);

  if (live && live.dataset.every !== "0") {
    document.addEventListener("visibilitychange", refresh);
    setStatus(live.querySelector(".message") ? "away" : "live", live.querySelector(".message") ? "trying again" : "live");
    await_next();
  }
}
