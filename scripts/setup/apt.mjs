/**
 * Downloads a package of Debian, Ubuntu or a derivative, and unpacks it into the project's .sluice folder.
 *
 * apt runs with separate state, cache and sources: it needs no root, installs nothing, and leaves the machine's package
 * lists unchanged. It reads the machine's package status, so only missing libraries are downloaded, and checks signatures
 * with the machine's keys.
 */

import { codenameOf, withSuite } from "./sources.mjs";

const SOURCES = "/etc/apt/sources.list";
const PARTS = "/etc/apt/sources.list.d";
/** The C library must be the one of the machine's dynamic loader. */
const NOT_UNPACKED = /^(libc6|libc-bin)_/;

/**
 * @typedef {object} Package
 * @property {string} name
 * @property {string} folder where it is unpacked, below .sluice
 * @property {string} program its executable, below that folder
 * @property {Readonly<Record<string, string>>} [files] files to add to the folder, by name
 * @property {string} [prepare] shell script that the wrapper runs first, with the folder in $here
 */

/**
 * Returns the path of a wrapper that runs the unpacked program. Returns undefined on failure and passes the reason to `why`.
 *
 * @param {import("./valkey.mjs").Probes} probes
 * @param {Package} wanted
 * @param {(reason: string) => void} why
 * @param {string} [extraSuite] a suite to add, without the codename: `backports` for bookworm-backports
 * @returns {string | undefined}
 */
export function fromApt(probes, wanted, why, extraSuite) {
  if (!hasApt(probes)) return undefined;
  const root = `${probes.folder}/apt`;
  try {
    const files = machineSources(probes);
    if (extraSuite !== undefined) {
      const codename = codenameOf(probes.readFile("/etc/os-release") ?? "");
      const extra = codename && withSuite(files, codename, `${codename}-${extraSuite}`);
      if (!extra) {
        why("no package source of this machine has an entry for its release");
        return undefined;
      }
      files.push(extra);
    }
    for (const { name, text } of files) probes.writeFile(`${root}/sources/${name}`, text);
    return fetchAndUnpack(probes, wanted, why, root, extraSuite);
  } finally {
    probes.remove(root);
  }
}

function fetchAndUnpack(probes, wanted, why, root, extraSuite) {
  for (const folder of ["state/lists/partial", "cache/archives/partial"]) {
    probes.writeFile(`${root}/${folder}/.keep`, "");
  }
  const apt = (...args) => probes.run("apt-get", [...optionsFor(root), ...args], { quiet: true });
  const where = extraSuite === undefined ? "the machine's package sources" : `the suite ${extraSuite}`;
  probes.say(`looking for the package ${wanted.name} in ${where}`);
  const updated = apt("update");
  const fetched = apt("--download-only", "--yes", "--no-install-recommends", "install", wanted.name);
  if (fetched.status !== 0) {
    why(reasonOf(fetched.stderr) ?? reasonOf(updated.stderr) ?? "apt-get failed without an error message");
    return undefined;
  }
  const archives = `${root}/cache/archives`;
  const packages = probes.list(archives).filter((name) => name.endsWith(".deb") && !NOT_UNPACKED.test(name));
  if (!packages.some((name) => name.startsWith(`${wanted.name}_`))) {
    why("apt-get did not download the package");
    return undefined;
  }
  const unpacked = `${root}/unpacked`;
  for (const name of packages) {
    const { status, stderr } = probes.run("dpkg-deb", ["-x", `${archives}/${name}`, unpacked], {
      quiet: true,
    });
    if (status !== 0) {
      why(`${name} could not be unpacked: ${stderr.trim()}`);
      return undefined;
    }
  }
  probes.writeFile(`${unpacked}/${wanted.name}`, wrapperOf(wanted), true);
  for (const [name, text] of Object.entries(wanted.files ?? {}))
    probes.writeFile(`${unpacked}/${name}`, text);
  const folder = `${probes.folder}/${wanted.folder}`;
  probes.move(unpacked, folder);
  probes.say(`unpacked ${wanted.name} and ${packages.length - 1} packages that it needs into ${folder}`);
  return `${folder}/${wanted.name}`;
}

/** Finds the libraries relative to its own path, so the project can be moved. */
const wrapperOf = ({ program, prepare = "" }) => `#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
for folder in "$here"/usr/lib "$here"/usr/lib/*-linux-* "$here"/lib/*-linux-*; do
  if [ -d "$folder" ]; then
    LD_LIBRARY_PATH="$folder\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  fi
done
export LD_LIBRARY_PATH
${prepare}exec "$here/${program}" "$@"
`;

function hasApt(probes) {
  if (probes.platform !== "linux") return false;
  return ["apt-get", "dpkg-deb"].every(
    (tool) => probes.run(tool, ["--version"], { quiet: true }).status === 0,
  );
}

function machineSources(probes) {
  const list = probes.readFile(SOURCES);
  const parts = probes.list(PARTS).filter((name) => /\.(list|sources)$/.test(name));
  return [
    ...(list === undefined ? [] : [{ name: "machine.list", text: list }]),
    ...parts.map((name) => ({ name, text: probes.readFile(`${PARTS}/${name}`) ?? "" })),
  ];
}

function optionsFor(root) {
  const options = {
    "Dir::State": `${root}/state`,
    "Dir::State::status": "/var/lib/dpkg/status",
    "Dir::Cache": `${root}/cache`,
    "Dir::Etc::sourcelist": "/dev/null",
    "Dir::Etc::sourceparts": `${root}/sources`,
    // The machine's package status is only read.
    "Debug::NoLocking": "true",
    // As root, apt would download as the user _apt, who cannot write into this folder.
    "APT::Sandbox::User": "root",
    "Acquire::Languages": "none",
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
    "Acquire::Retries": "3",
  };
  return ["-qq", ...Object.entries(options).flatMap(([name, value]) => ["-o", `${name}=${value}`])];
}

/** The first error message of apt. */
function reasonOf(stderr) {
  return /^E: (.*)$/m.exec(stderr)?.[1];
}
