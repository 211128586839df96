// Shows how much of a large file has been sent. Without this script the form is sent all the same, and says nothing meanwhile.
"use strict";

function start() {
  const form = document.querySelector("form[data-upload]");
  if (form === null) return;
  form.addEventListener("submit", (event) => {
    if (!window.FormData || !form.reportValidity()) return;
    event.preventDefault();
    const shown = form.querySelector("[data-upload-shown]");
    const bar = shown.querySelector("progress");
    const status = shown.querySelector("[role=status]");
    const request = new XMLHttpRequest();
    const button = form.querySelector("button[type=submit]");
    shown.hidden = false;
    button.disabled = true;
    request.upload.addEventListener("progress", (sent) => {
      if (sent.lengthComputable) bar.value = sent.loaded / sent.total;
    });
    request.upload.addEventListener("load", () => {
      bar.removeAttribute("value");
      status.textContent = "It is there. Reading and storing it.";
    });
    request.addEventListener("load", () => {
      // A report has an address of its own; a refusal is shown in place, at the form's.
      if (request.status === 200 && request.responseURL !== form.action) {
        window.location.assign(request.responseURL);
        return;
      }
      const page = new DOMParser().parseFromString(request.responseText, "text/html");
      const main = page.querySelector("main");
      if (main === null) {
        window.location.reload();
        return;
      }
      document.querySelector("main").replaceChildren(...main.childNodes);
      document.querySelector("main h1")?.scrollIntoView();
      start();
    });
    request.addEventListener("error", () => {
      shown.hidden = true;
      button.disabled = false;
      bar.value = 0;
      window.alert("The file could not be sent. Look at the connection and try again.");
    });
    request.open("POST", form.action);
    request.send(new FormData(form));
  });
}

start();
