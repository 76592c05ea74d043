/**
 * Parses the package sources of Debian and its derivatives: `.sources` files (deb822) and one-line `.list` files. New
 * entries are copies of the machine's, so they use only hosts that it already trusts.
 */

/**
 * Copies the first entry for the release's main suite, with another suite in its place. Returns undefined if there is no
 * such entry.
 *
 * @param {readonly { name: string, text: string }[]} files
 * @param {string} codename the release, for example bookworm
 * @param {string} suite the new suite, for example bookworm-backports
 * @returns {{ name: string, text: string } | undefined} a sources file with that entry
 */
export function withSuite(files, codename, suite) {
  for (const { name, text } of files) {
    const isDeb822 = name.endsWith(".sources");
    const entry = isDeb822 ? stanzaFor(text, codename, suite) : lineFor(text, codename, suite);
    if (entry !== undefined) {
      return { name: `zz-sluice.${isDeb822 ? "sources" : "list"}`, text: `${entry}\n` };
    }
  }
  return undefined;
}

/** The codename in the text of /etc/os-release. For a derivative, the codename of the release that it is based on. */
export function codenameOf(osRelease) {
  const field = (name) => new RegExp(`^${name}="?([a-z][a-z0-9]*)"?$`, "m").exec(osRelease)?.[1];
  return field("UBUNTU_CODENAME") ?? field("DEBIAN_CODENAME") ?? field("VERSION_CODENAME");
}

function stanzaFor(text, codename, suite) {
  for (const stanza of text.replaceAll("\r", "").split(/\n[ \t]*\n/)) {
    const lines = stanza.split("\n").filter((line) => !line.startsWith("#"));
    const field = (name) => lines.find((line) => line.toLowerCase().startsWith(`${name}:`));
    const suites = fieldValue(field("suites"));
    const isOff = /^(no|false|0)$/i.test(fieldValue(field("enabled")).trim());
    if (isOff || !words(fieldValue(field("types"))).includes("deb")) continue;
    if (!words(suites).some((word) => isMain(word, codename))) continue;
    return lines
      .map((line) => (line === field("suites") ? `Suites: ${suite}` : line))
      .map((line) => (line === field("types") ? "Types: deb" : line))
      .join("\n")
      .trim();
  }
  return undefined;
}

function lineFor(text, codename, suite) {
  for (const line of text.split("\n")) {
    const entry = /^\s*deb\s+((?:\[[^\]]*\]\s+)?\S+)\s+(\S+)\s+(\S.*)$/.exec(line.replace(/#.*$/, ""));
    if (entry !== null && isMain(entry[2], codename)) return `deb ${entry[1]} ${suite} ${entry[3].trim()}`;
  }
  return undefined;
}

function isMain(suite, codename) {
  return suite === codename || suite === "stable";
}

function fieldValue(line) {
  return line?.slice(line.indexOf(":") + 1) ?? "";
}

function words(text) {
  return text.split(/\s+/).filter((word) => word !== "");
}
