/** Runs Valkey from its public image with Docker or Podman. */

const ENGINES = ["docker", "podman"];
const IMAGE = "docker.io/valkey/valkey:8.1.1";

/**
 * Returns the path of a wrapper that runs the server in a container. Returns undefined on failure and passes the reason to
 * `why`.
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
      why(`${engine} is installed but does not respond`);
      continue;
    }
    probes.say(`pulling the image ${IMAGE} with ${engine}`);
    if (probes.run(engine, ["pull", "--quiet", IMAGE]).status !== 0) {
      why(`${engine} could not pull ${IMAGE}`);
      continue;
    }
    const path = `${probes.folder}/valkey-container`;
    probes.writeFile(path, wrapperFor(engine), true);
    return path;
  }
  return undefined;
}

/**
 * The folder of the argument --dir, the ports and the user are the same inside and outside of the container, so callers
 * can use the wrapper like an installed server.
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
