import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import { LIBRARY_NAME, librarySource } from "#lua/library.ts";
import { EDITION_KEY } from "#shared/contract/keys.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { connectTo, onEveryPrimary } from "#test/support/valkey.ts";

const EMPTY = "function() return 0 end";

function libraryWith(...names: string[]): string {
  const functions = names.map((name) => `server.register_function('${name}', ${EMPTY})`);
  return [`#!lua name=${LIBRARY_NAME}`, ...functions].join("\n");
}

/** Returns the library version of each primary. Calls the nodes directly, not through a slot. */
async function versions(valkey: Valkey): Promise<unknown[]> {
  return onEveryPrimary(valkey, "fcall", "ff_version", 0);
}

// These tests use their own servers: other tests use the library of the shared ones.
describe.each([false, true])("ensureLibrary (cluster: %s)", (cluster) => {
  let server: ValkeyServer;
  let valkey: Valkey;

  function everyPrimary(version: string): string[] {
    return new Array<string>(cluster ? 3 : 1).fill(version);
  }

  beforeAll(async () => {
    server = cluster ? await startValkeyCluster() : await startValkey();
    valkey = connectTo({ url: server.url, cluster });
  });

  afterAll(async () => {
    valkey.close();
    await server.stop();
  });

  beforeEach(async () => {
    await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
    await valkey.call("del", EDITION_KEY);
  });

  test("restores the edition that was last loaded after a flush, whatever the default", async () => {
    await ensureLibrary(valkey, 14);
    await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
    expect(await ensureLibrary(valkey, "auto", 11)).toBe("loaded");
    expect(await versions(valkey)).toEqual(everyPrimary("26"));
    await ensureLibrary(valkey, 11);
    await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
    expect(await ensureLibrary(valkey, "auto", 14)).toBe("loaded");
    expect(await versions(valkey)).toEqual(everyPrimary("5"));
  });

  test("loads the library on every primary once", async () => {
    expect(await ensureLibrary(valkey)).toBe("loaded");
    expect(await versions(valkey)).toEqual(everyPrimary("5"));
    expect(await ensureLibrary(valkey)).toBe("current");
  });

  test("loads the library on a primary that lacks it", async () => {
    await ensureLibrary(valkey);
    const [first] = await valkey.primaries();
    await first?.call("function", "DELETE", LIBRARY_NAME);
    await expect(versions(valkey)).rejects.toThrow("Function not found");
    expect(await ensureLibrary(valkey)).toBe("loaded");
    expect(await versions(valkey)).toEqual(everyPrimary("5"));
  });

  test("replaces an older library whose functions are all ours", async () => {
    await onEveryPrimary(valkey, "function", "LOAD", libraryWith("ff_version", "ff_create_flow"));
    expect(await ensureLibrary(valkey)).toBe("loaded");
    expect(await versions(valkey)).toEqual(everyPrimary("5"));
  });

  test("does not change a library with a function that ours lacks", async () => {
    const foreign = libraryWith("ff_version", "ff_renew_lease");
    const [first] = await valkey.primaries();
    await first?.call("function", "LOAD", foreign);
    const listed = await onEveryPrimary(valkey, "function", "LIST", "WITHCODE");
    expect(await ensureLibrary(valkey)).toBe("foreign");
    expect(await onEveryPrimary(valkey, "function", "LIST", "WITHCODE")).toEqual(listed);
  });

  test("can run several times concurrently", async () => {
    const states = await Promise.all(Array.from({ length: 8 }, () => ensureLibrary(valkey)));
    expect(states).toContain("loaded");
    expect(states).not.toContain("foreign");
    expect(await ensureLibrary(valkey)).toBe("current");
  });

  test("keeps the loaded edition until the other one is requested", async () => {
    for (const [edition, version] of [
      [14, "26"],
      [11, "5"],
    ] as const) {
      expect(await ensureLibrary(valkey, edition)).toBe("loaded");
      expect(await ensureLibrary(valkey, edition)).toBe("current");
      expect(await ensureLibrary(valkey)).toBe("current");
      expect(await ensureLibrary(valkey, "auto", 14)).toBe("current");
      expect(await versions(valkey)).toEqual(everyPrimary(version));
    }
  });

  test("loads the default edition if none is loaded", async () => {
    expect(await ensureLibrary(valkey, "auto", 14)).toBe("loaded");
    expect(await versions(valkey)).toEqual(everyPrimary("26"));
  });

  test("replaces an older 14-KEYS library with the current one of that edition", async () => {
    await onEveryPrimary(valkey, "function", "LOAD", libraryWith("ff_version", "ff_set_edge_group_policy"));
    expect(await ensureLibrary(valkey)).toBe("loaded");
    expect(await versions(valkey)).toEqual(everyPrimary("26"));
  });

  test("does not replace a foreign library, whichever edition is requested", async () => {
    const foreign = libraryWith("ff_version", "ff_set_edge_group_policy", "ff_renew_lease");
    await onEveryPrimary(valkey, "function", "LOAD", foreign);
    const listed = await onEveryPrimary(valkey, "function", "LIST", "WITHCODE");
    expect(await ensureLibrary(valkey, 11)).toBe("foreign");
    expect(await ensureLibrary(valkey, 14)).toBe("foreign");
    expect(await onEveryPrimary(valkey, "function", "LIST", "WITHCODE")).toEqual(listed);
  });

  test("ignores other libraries, and fails if one has a function of the same name", async () => {
    await onEveryPrimary(
      valkey,
      "function",
      "LOAD",
      `#!lua name=other\nserver.register_function('x', ${EMPTY})`,
    );
    expect(await ensureLibrary(valkey)).toBe("loaded");
    await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
    const clash = `#!lua name=other\nserver.register_function('ff_version', ${EMPTY})`;
    await onEveryPrimary(valkey, "function", "LOAD", clash);
    await expect(ensureLibrary(valkey)).rejects.toThrow("ff_version already exists");
  });
});

describe("ensureLibrary (primaries with different libraries)", () => {
  let cluster: ValkeyServer;
  let valkey: Valkey;

  beforeAll(async () => {
    cluster = await startValkeyCluster();
    valkey = connectTo({ url: cluster.url, cluster: true });
  });

  afterAll(async () => {
    valkey.close();
    await cluster.stop();
  });

  test("loads the edition of the other primaries, whatever the default", async () => {
    await ensureLibrary(valkey, 14);
    const [first] = await valkey.primaries();
    await first?.call("function", "FLUSH", "SYNC");
    expect(await ensureLibrary(valkey, "auto", 11)).toBe("loaded");
    expect(await versions(valkey)).toEqual(new Array(3).fill("26"));
  });

  test("refuses two editions without changing them, unless one is requested", async () => {
    await ensureLibrary(valkey, 11);
    const [first] = await valkey.primaries();
    await first?.call("function", "LOAD", "REPLACE", librarySource(14));
    const listed = await onEveryPrimary(valkey, "function", "LIST", "WITHCODE");
    await expect(ensureLibrary(valkey)).rejects.toThrow("set LIBRARY_EDITION to 11 or 14");
    expect(await onEveryPrimary(valkey, "function", "LIST", "WITHCODE")).toEqual(listed);
    expect(await ensureLibrary(valkey, 14)).toBe("loaded");
    expect(await versions(valkey)).toEqual(new Array(3).fill("26"));
  });
});
