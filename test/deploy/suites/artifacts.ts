/** The contents of the artifacts, and the environment variables that they read. */

import { describe, expect, it } from "vitest";
import { FUNCTIONS, idOf, keyOf, NAMES, OPERATE, type Packaged } from "#test/deploy/names.ts";
import { type Recording, recorded } from "#test/deploy/recorded.ts";
import { at, entriesOf } from "#test/deploy/template.ts";

export function artifacts(packaged: Packaged): void {
  const recordings = new Map<string, Promise<Recording>>();
  /** The variables that an artifact reads in the environment of a variant. Runs each artifact once. */
  function recordingOf(variant: string, name: string): Promise<Recording> {
    const known = recordings.get(`${variant} ${name}`);
    if (known !== undefined) return known;
    const template = packaged().template(variant);
    const recording = packaged()
      .artifact(variant, keyOf(name))
      .then((artifact) =>
        recorded(
          artifact,
          String(template.property(idOf(name), "Handler")),
          Object.fromEntries(
            Object.entries(template.environment(idOf(name))).map(([variable, value]) => [
              variable,
              placeholder(variable, value),
            ]),
          ),
        ),
      );
    recordings.set(`${variant} ${name}`, recording);
    return recording;
  }
  describe.each(NAMES)("%s", (variant) => {
    it("sets exactly the environment variables that the code reads, and the artifacts run without other files", async () => {
      for (const name of FUNCTIONS) {
        const environment = packaged().template(variant).environment(idOf(name));
        const recordings: Recording[] = [];
        // Variables of other kinds of authentication are not read. They are set to the empty string.
        for (const other of ["dev", "local", "existing-secret"]) {
          recordings.push(await recordingOf(other, name));
        }
        const reads = new Set(
          // Operations read some variables when they run, which the recording does not see.
          recordings.flatMap(({ reads, named }) => [...reads, ...(OPERATE.includes(name) ? named : [])]),
        );
        const ours = new Set(recordings.flatMap((recording) => [...recording.ours]));
        // Read by Node.
        const set = Object.keys(environment).filter((variable) => variable !== "NODE_OPTIONS");
        expect(
          [...ours].filter((variable) => !set.includes(variable)),
          `${name} reads, not set`,
        ).toEqual([]);
        expect(
          set.filter((variable) => !reads.has(variable)),
          `${name} does not read`,
        ).toEqual([]);
        expect(ours.size).toBeGreaterThan(2);
      }
    });
  });

  it.each(FUNCTIONS)(
    "%s's artifact contains the handler's modules, their source maps and the licence notices, and nothing else",
    async (name) => {
      const { files, unloadable, failure } = await recordingOf("prod", name);
      const code = files.filter((path) => path.endsWith(".mjs"));
      expect(code).toContain(`dist/${name}/index.mjs`);
      expect(unloadable).toEqual([]);
      const notices = `dist/${name}/THIRD_PARTY_NOTICES.txt`;
      expect([...files].sort()).toEqual([...code.flatMap((path) => [path, `${path}.map`]), notices].sort());
      // The handler failed on its event, so no configuration and no module is missing.
      expect(failure).not.toMatch(
        /ConfigurationError|ERR_MODULE_NOT_FOUND|no handler|all of the environment/,
      );
    },
  );
}

/** A valid value in place of one from CloudFormation, and an address without a server. */
function placeholder(variable: string, value: unknown): string {
  if (variable === "VALKEY_URL") {
    const text = typeof value === "string" ? value : String(at(value, "Fn::Sub"));
    return text.startsWith("rediss:") ? "rediss://127.0.0.1:9" : "redis://127.0.0.1:9";
  }
  if (typeof value === "string") return value;
  const [[kind, target] = []] = entriesOf(value);
  if (kind !== "Ref") throw new Error(`${variable} is ${JSON.stringify(value)}`);
  return variable.endsWith("_QUEUE_URL") ? `http://127.0.0.1:9/000000000000/${target}` : String(target);
}
