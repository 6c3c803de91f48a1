/**
 * Says so where this browser cannot show the page, or the page could not start: a blank page would say nothing.
 *
 * No module, and in the JavaScript of 2009: the browsers it is for cannot read anything newer.
 */
(function () {
  var needs = [
    ["JavaScript modules", "noModule" in document.createElement("script")],
    ["dialogs", typeof HTMLDialogElement === "function" && "showModal" in HTMLDialogElement.prototype],
    ["pointer events", "PointerEvent" in window],
    ["streams of text", "TextDecoderStream" in window],
    ["arrays' findLast and at", "findLast" in Array.prototype && "at" in Array.prototype],
    ["ResizeObserver", "ResizeObserver" in window],
    ["random numbers", "crypto" in window && "getRandomValues" in window.crypto],
    ["storage (cookies and site data may be blocked)", stores()],
  ];
  var missing = [];
  for (var i = 0; i < needs.length; i += 1) if (!needs[i][1]) missing.push(needs[i][0]);
  var newer = "Use Chrome or Edge 97, Firefox 105, Safari 15.4, or a newer one. Nothing that was accepted is lost.";

  function stores() {
    try {
      return Boolean(window.sessionStorage && window.localStorage);
    } catch (_error) {
      return false;
    }
  }

  function say(text) {
    function show() {
      if (document.getElementById("unfit")) return;
      var place = document.createElement("p");
      place.id = "unfit";
      place.setAttribute("role", "alert");
      place.textContent = text;
      document.body.insertBefore(place, document.body.firstChild);
    }
    if (document.body) show();
    else document.addEventListener("DOMContentLoaded", show);
  }

  /** @param {string} reason  of a page that has not started; later mistakes are not the browser's */
  function failed(reason) {
    if (!start.begun && !missing.length) say("This page could not start: " + reason + " " + newer);
  }

  var start = { missing: missing, begun: false, say: say };
  window.start = start; // main.js says when it has begun
  if (missing.length) say("This browser cannot show this page. It lacks " + missing.join(", ") + ". " + newer);
  window.addEventListener("unhandledrejection", function (event) {
    failed(String(event.reason) + ".");
  });
  window.addEventListener(
    "error",
    function (event) {
      var file = event.target && (event.target.src || event.target.href);
      if (file && !start.begun)
        say(file + ", or what it needs, could not be loaded. Is annotate still running? Load the page again.");
      else failed(event.message + ".");
    },
    true,
  );
})();
