/** Starts the page: the token, the tab's name, what this browser has kept. */

import { Refusal, takeToken } from "./api.js";
import { App, restart } from "./app.js";
import { askToken } from "./dialogs.js";
import { Store } from "./store.js";

/** A name for this tab, which a reload keeps and a copy of the tab does not. */
function tabName() {
  const navigation = performance.getEntriesByType("navigation")[0];
  const kept = navigation?.type === "reload" ? window.sessionStorage.getItem("samseg-tab") : null;
  const made =
    kept ??
    Array.from(crypto.getRandomValues(new Uint8Array(9)), (value) => value.toString(36))
      .join("")
      .slice(0, 12);
  window.sessionStorage.setItem("samseg-tab", made);
  return made;
}

async function main() {
  if (window.start.missing.length) return; // browser.js has said so
  const token = takeToken() ?? (await askToken());
  window.sessionStorage.setItem("samseg-token", token);
  const app = new App(token, tabName(), await Store.open());
  window.annotate = app; // for the console, and tests
  for (;;) {
    try {
      await app.start();
      window.start.begun = true;
      return;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.status === 401)
        restart(await askToken("The server does not know this token. Paste the address that it has printed."));
      else if (!error.unreachable) {
        window.start.say(error.message);
        return;
      }
      app.screen.say("The server does not answer. Is annotate still running?", "bad");
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

main();
