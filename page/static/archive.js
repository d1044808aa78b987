// Keeps what a user made in the browser's own database, by model: groups of images and the easel.
// Without a database (some private windows have none) nothing is kept, and the page works as before.

const GROUPS = "groups";
const EASELS = "easels";

const opened = new Promise((resolve) => {
  const request = indexedDB.open("maskgit", 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore(GROUPS, { keyPath: "key" }).createIndex("model", "modelId");
    request.result.createObjectStore(EASELS);
  };
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => resolve(null);
}).catch(() => null);

/** Do something with a store; returns its result, undefined if there is none. */
async function using(name, mode, act) {
  const database = await opened;
  if (!database) return undefined;
  return new Promise((resolve) => {
    const transaction = database.transaction(name, mode);
    const request = act(transaction.objectStore(name));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => resolve(undefined); // the disk is full, perhaps
  });
}

/** Whether what is made survives the tab. */
export const isKept = async () => Boolean(await opened);

/** Keep a group; it has `key` and `modelId`. */
export const keepGroup = (group) => using(GROUPS, "readwrite", (store) => store.put(group));

export const dropGroup = (key) => using(GROUPS, "readwrite", (store) => store.delete(key));

/** The groups of a model, the oldest first. */
export const groupsOf = async (modelId) =>
  (await using(GROUPS, "readonly", (store) => store.index("model").getAll(modelId))) ?? [];

export const keepEasel = (modelId, easel) => using(EASELS, "readwrite", (store) => store.put(easel, modelId));

export const easelOf = (modelId) => using(EASELS, "readonly", (store) => store.get(modelId));
