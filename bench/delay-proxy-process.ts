/** The delay proxy's own process: it must not take time from those whose delay it makes. */

import { DelayProxy } from "#bench/delay-proxy.ts";

const [url = "", delayMs = ""] = process.argv.slice(2);
// Whoever asked is gone.
process.on("disconnect", () => process.exit(0));
const proxy = await DelayProxy.before(new URL(url), Number(delayMs));
process.send?.({ port: proxy.port });
