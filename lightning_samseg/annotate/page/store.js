/**
 * What this browser keeps of drafts: the steps of undo, and all that the server has not got yet.
 *
 * IndexedDB, because a mask of 12 megapixels does not fit into other stores. Where it is missing (some private windows)
 * records live as long as the page.
 *
 * @typedef {{key: string, workspace: string, id: string, revision: number, sent: boolean, accept: boolean, draft: object}} Kept
 *   revision: the newest one of the server that the draft has seen; sent: the server has it; accept: it is to be accepted
 */

const NAME = "samseg-annotate";

export class Store {
  /** @param {IDBDatabase|null} database */
  constructor(database) {
    this.database = database;
    this.memory = new Map();
  }

  static open() {
    return new Promise((resolve) => {
      let request;
      try {
        request = indexedDB.open(NAME, 1);
      } catch {
        resolve(new Store(null));
        return;
      }
      request.onupgradeneeded = () => {
        request.result.createObjectStore("drafts", { keyPath: "key" }).createIndex("workspace", "workspace");
      };
      request.onsuccess = () => resolve(new Store(request.result));
      request.onerror = () => resolve(new Store(null));
    });
  }

  static key(workspace, id) {
    return `${workspace}/${id}`;
  }

  /** @returns {Promise<Kept|undefined>} */
  get(key) {
    return this.#do(
      "readonly",
      (drafts) => drafts.get(key),
      () => this.memory.get(key),
    );
  }

  /** @param {Kept} kept */
  put(kept) {
    return this.#do(
      "readwrite",
      (drafts) => drafts.put(kept),
      () => this.memory.set(kept.key, kept),
    );
  }

  delete(key) {
    return this.#do(
      "readwrite",
      (drafts) => drafts.delete(key),
      () => this.memory.delete(key),
    );
  }

  /** @returns {Promise<Kept[]>} of a workspace */
  all(workspace) {
    return this.#do(
      "readonly",
      (drafts) => drafts.index("workspace").getAll(workspace),
      () => [...this.memory.values()].filter((kept) => kept.workspace === workspace),
    );
  }

  /** A full or broken store is no reason to stop: the server has the drafts, too. */
  #do(mode, work, otherwise) {
    if (!this.database) return Promise.resolve(otherwise());
    return new Promise((resolve) => {
      const failed = (error) => {
        console.warn("IndexedDB:", error);
        resolve(otherwise());
      };
      try {
        const transaction = this.database.transaction("drafts", mode);
        const request = work(transaction.objectStore("drafts"));
        if (mode === "readonly") request.onsuccess = () => resolve(request.result ?? otherwise());
        else transaction.oncomplete = () => resolve(undefined);
        transaction.onabort = () => failed(transaction.error);
        request.onerror = (event) => {
          event.preventDefault();
          failed(request.error);
        };
      } catch (error) {
        failed(error);
      }
    });
  }
}
