/** Runs Valkey from its public image, where the machine has a container engine that answers. */

const ENGINES = ["docker", "podman"];
const IMAGE = "docker.io/valkey/valkey:8";

/**
 * The path of a wrapper that runs the server in a container, or undefined.
 *
 * @param {import("./valkey.mjs").Probes} probes
 * @param {(reason: string) => void} why
 * @returns {string | undefined}
 */
export function fromContainer(probes, why) {
  for (const engine of ENGINES) {
    const { status } = probes.run(engine, ["info"], { quiet: true });
    if (status === null) continue;
    if (status !== 0) {
      why(`${engine} is installed and does not answer`);
      continue;
    }
    probes.say(`fetching the image ${IMAGE} with ${engine}`);
    if (probes.run(engine, ["pull", "--quiet", IMAGE]).status !== 0) {
      why(`${engine} could not fetch ${IMAGE}`);
      continue;
    }
    const path = `${probes.folder}/valkey-container`;
    probes.writeFile(path, wrapperFor(engine), true);
    return path;
  }
  return undefined;
}

/**
 * The server's folder (the argument after --dir) is the same inside and out, and so are its ports and its user,
 * so that those who start it need not know that it runs in a container.
 */
function wrapperFor(engine) {
  return `#!/bin/sh
folder=
previous=
for argument in "$@"; do
  if [ "$previous" = --dir ]; then folder=$argument; fi
  previous=$argument
done
exec ${engine} run --rm --init --network host --user "$(id -u):$(id -g)" \\
  \${folder:+--volume "$folder:$folder"} ${IMAGE} valkey-server "$@"
`;
}
