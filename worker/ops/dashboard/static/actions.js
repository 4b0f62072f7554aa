// Ask what the server asks before an action in a dialog of this page. Without this script it is a page of its own.
"use strict";

document.addEventListener("submit", async (event) => {
  const form = event.target;
  const button = event.submitter;
  if (!form.matches(".action") || !window.HTMLDialogElement) return;
  event.preventDefault();
  const fields = new URLSearchParams(new FormData(form, button));
  const address = button?.getAttribute("formaction") ?? form.getAttribute("action");
  if (button) button.disabled = true; // a second click is no second action
  try {
    const answer = await fetch(address, { method: "POST", body: fields, redirect: "manual" });
    if (answer.type === "opaqueredirect") return location.assign(fields.get("next"));
    if (answer.status === 401) return location.reload(); // the session has ended
    ask(new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".message"));
  } catch {
    location.reload(); // what became of it, the page shows
  } finally {
    if (button) button.disabled = false;
  }

  // Show a question, or the reason why there is none.
  function ask(section) {
    const dialog = document.createElement("dialog");
    dialog.className = "ask";
    dialog.append(...document.importNode(section, true).children);
    const title = dialog.querySelector("h1");
    title.id = "question";
    dialog.setAttribute("aria-labelledby", title.id);
    for (const link of dialog.querySelectorAll("a")) {
      link.addEventListener("click", (click) => (click.preventDefault(), dialog.close()));
    }
    dialog.addEventListener("close", () => (dialog.remove(), button?.focus()));
    document.body.append(dialog);
    dialog.showModal();
  }
});
