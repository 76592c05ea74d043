import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import { LIBRARY_NAME, librarySource } from "#lua/library.ts";
import { LIBRARY_REVISION } from "#lua/revision.ts";
import { EDITION_KEY } from "#shared/contract/keys.ts";
import { ConfigurationError } from "#shared/errors.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { librarySourceOf01, releaseOfRevision, unloadLibrary } from "#test/support/library.ts";
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

/** Everything that `ensureLibrary` writes. */
async function written(valkey: Valkey): Promise<unknown[]> {
  const libraries = await onEveryPrimary(valkey, "function", "LIST", "WITHCODE");
  return [libraries, await valkey.call("get", EDITION_KEY)];
}

/** Returns the revision of each primary. */
async function revisions(valkey: Valkey): Promise<unknown[]> {
  return onEveryPrimary(valkey, "fcall", "sluice_revision", 0);
}

/** The same Valkey, which runs `first` before its first call of a command on a primary. */
function overtakenBefore(
  valkey: Valkey,
  name: string,
  subcommand: string,
  first: () => Promise<void>,
): Valkey {
  let pending: Promise<void> | undefined;
  const primaries = async () =>
    (await valkey.primaries()).map((node) => ({
      ...node,
      call: async (command: string, ...args: Parameters<typeof node.call>[1][]) => {
        if (command === name && args[0] === subcommand) {
          pending ??= first();
          await pending;
        }
        return node.call(command, ...args);
      },
    }));
  return new Proxy(valkey, {
    get: (target, property) => {
      if (property === "primaries") return primaries;
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
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
    await unloadLibrary(valkey);
  });

  test("restores the edition that was last loaded after a flush, whatever the default", async () => {
    await ensureLibrary(valkey, 11);
    await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
    expect(await ensureLibrary(valkey, "auto", 14)).toBe("loaded");
    expect(await versions(valkey)).toEqual(everyPrimary("5"));
    await ensureLibrary(valkey, 14);
    await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
    expect(await ensureLibrary(valkey, "auto", 11)).toBe("loaded");
    expect(await versions(valkey)).toEqual(everyPrimary("26"));
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

  test("keeps the loaded edition until the 14-KEYS edition is requested", async () => {
    for (const [edition, version] of [
      [11, "5"],
      [14, "26"],
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

  test("never replaces the 14-KEYS edition by the 11-KEYS edition, and says why", async () => {
    await ensureLibrary(valkey, 14);
    let before = await written(valkey);
    // A dispatcher with LIBRARY_EDITION=11, of this release or of a later one.
    for (const release of [releaseOfRevision(LIBRARY_REVISION), releaseOfRevision(LIBRARY_REVISION + 1)]) {
      const attempt = ensureLibrary(valkey, 11, 11, release);
      await expect(attempt).rejects.toThrow(ConfigurationError);
      await expect(attempt).rejects.toThrow("LIBRARY_EDITION is 11, but Valkey has the 14-KEYS edition");
      expect(await written(valkey)).toEqual(before);
    }
    // FUNCTION FLUSH does not make it safe: edge groups may exist.
    await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
    before = await written(valkey);
    await expect(ensureLibrary(valkey, 11)).rejects.toThrow(
      `${EDITION_KEY} records that Valkey had the 14-KEYS`,
    );
    expect(await written(valkey)).toEqual(before);
  });

  test("refuses the 11-KEYS edition if only one primary has the 14-KEYS edition of release 0.1", async () => {
    const [first] = await valkey.primaries();
    await first?.call("function", "LOAD", librarySourceOf01(14));
    const before = await written(valkey);
    await expect(ensureLibrary(valkey, 11)).rejects.toThrow(
      "LIBRARY_EDITION is 11, but Valkey has the 14-KEYS",
    );
    expect(await written(valkey)).toEqual(before);
  });

  test.each([11, 14] as const)(
    "replaces the %i-KEYS library of release 0.1 in its edition",
    async (edition) => {
      await onEveryPrimary(valkey, "function", "LOAD", librarySourceOf01(edition));
      expect(await ensureLibrary(valkey, "auto", edition === 11 ? 14 : 11)).toBe("loaded");
      expect(await revisions(valkey)).toEqual(everyPrimary(String(LIBRARY_REVISION)));
      expect(await versions(valkey)).toEqual(everyPrimary(edition === 11 ? "5" : "26"));
    },
  );

  test("a later revision replaces an earlier one, and an earlier one never a later one", async () => {
    const [older, newer] = [releaseOfRevision(7), releaseOfRevision(12)];
    expect(await ensureLibrary(valkey, "auto", 11, older)).toBe("loaded");
    // A rolling update: both releases run side by side, in any order.
    expect(await ensureLibrary(valkey, "auto", 11, newer)).toBe("loaded");
    const before = await written(valkey);
    for (const release of [older, newer, older, newer, older]) {
      expect(await ensureLibrary(valkey, "auto", 11, release)).toBe("current");
      expect(await ensureLibrary(valkey, 11, 11, release)).toBe("current");
    }
    expect(await written(valkey)).toEqual(before);
    expect(await revisions(valkey)).toEqual(everyPrimary("12"));
  });

  test("the same revision is never replaced, whatever its text", async () => {
    await ensureLibrary(valkey);
    const before = await written(valkey);
    const renamed = releaseOfRevision(LIBRARY_REVISION);
    expect(renamed.source(11)).not.toBe(librarySource(11));
    expect(await ensureLibrary(valkey, 11, 11, renamed)).toBe("current");
    expect(await written(valkey)).toEqual(before);
  });

  test("refuses the 14-KEYS edition where a later revision has the 11-KEYS edition", async () => {
    await ensureLibrary(valkey, 11, 11, releaseOfRevision(12));
    const before = await written(valkey);
    await expect(ensureLibrary(valkey, 14)).rejects.toThrow("has a later revision");
    expect(await written(valkey)).toEqual(before);
    expect(await ensureLibrary(valkey, 14, 11, releaseOfRevision(12))).toBe("loaded");
    expect(await versions(valkey)).toEqual(everyPrimary("26"));
  });

  test("a primary that lost its library gets one, also from an earlier release", async () => {
    await ensureLibrary(valkey, 11, 11, releaseOfRevision(12));
    const [first] = await valkey.primaries();
    await first?.call("function", "FLUSH", "SYNC");
    expect(await ensureLibrary(valkey, "auto", 11, releaseOfRevision(7))).toBe("loaded");
    expect(await revisions(valkey)).toEqual(["7", ...everyPrimary("12").slice(1)]);
    expect(await ensureLibrary(valkey, "auto", 11, releaseOfRevision(12))).toBe("loaded");
    expect(await revisions(valkey)).toEqual(everyPrimary("12"));
  });

  test("different releases and editions can load concurrently: the highest of both wins", async () => {
    await onEveryPrimary(valkey, "function", "LOAD", librarySourceOf01(11));
    const releases = [1, 2, 3, 4].map((revision) => releaseOfRevision(revision));
    await Promise.allSettled(
      releases.flatMap((release) => [
        ensureLibrary(valkey, "auto", 11, release),
        ensureLibrary(valkey, 11, 11, release),
        ensureLibrary(valkey, "auto", 14, release),
      ]),
    );
    await ensureLibrary(valkey, 14, 11, releaseOfRevision(4));
    expect(await versions(valkey)).toEqual(everyPrimary("26"));
    expect(await revisions(valkey)).toEqual(everyPrimary("4"));
  });

  test("restores the 14-KEYS edition if another client loaded it between this call's check and its load", async () => {
    await onEveryPrimary(valkey, "function", "LOAD", librarySourceOf01(11));
    const release = releaseOfRevision(2);
    let overtaken = false;
    const slow = overtakenBefore(valkey, "function", "LOAD", async () => {
      overtaken = true;
      await ensureLibrary(valkey, 14, 11, release);
      expect(await versions(valkey)).toEqual(everyPrimary("26"));
    });
    await expect(ensureLibrary(slow, 11, 11, release)).rejects.toThrow("LIBRARY_EDITION is 11");
    expect(overtaken).toBe(true);
    expect(await versions(valkey)).toEqual(everyPrimary("26"));
    expect(await valkey.call("get", EDITION_KEY)).toBe("14");
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

  test("refuses two editions without changing them, unless the 14-KEYS edition is requested", async () => {
    await unloadLibrary(valkey);
    await ensureLibrary(valkey, 11);
    const [first] = await valkey.primaries();
    await first?.call("function", "LOAD", "REPLACE", librarySource(14));
    const listed = await onEveryPrimary(valkey, "function", "LIST", "WITHCODE");
    await expect(ensureLibrary(valkey)).rejects.toThrow("set LIBRARY_EDITION to 14");
    await expect(ensureLibrary(valkey, 11)).rejects.toThrow(
      "LIBRARY_EDITION is 11, but Valkey has the 14-KEYS",
    );
    expect(await onEveryPrimary(valkey, "function", "LIST", "WITHCODE")).toEqual(listed);
    expect(await ensureLibrary(valkey, 14)).toBe("loaded");
    expect(await versions(valkey)).toEqual(new Array(3).fill("26"));
  });
});
