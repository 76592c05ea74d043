/** Decides which requests the server of the page answers. */

import { timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";

/** Why a request is refused, as an answer. */
export interface Refusal {
  readonly status: 403 | 415;
  readonly message: string;
}

export interface Access {
  readonly port: number;
  readonly token: string;
}

/** The header with the token. */
const TOKEN_HEADER = "x-sluice-token";

/**
 * Checks the origin of a request. A web page of another site can make a browser send requests to this machine, and a name that
 * resolves to 127.0.0.1 makes them look as if they were its own (DNS rebinding). Only the names of this server are accepted.
 */
export function originRefusal(headers: IncomingHttpHeaders, { port }: Access): Refusal | undefined {
  const hosts = [`127.0.0.1:${port}`, `localhost:${port}`];
  if (!hosts.includes(headers.host ?? "")) {
    return refused(`the Host header names another server: open http://127.0.0.1:${port}`);
  }
  const { origin, "sec-fetch-site": site } = headers;
  const isOwn = origin === undefined || hosts.some((host) => origin === `http://${host}`);
  if (!isOwn || (site !== undefined && site !== "same-origin" && site !== "none")) {
    return refused("requests of other sites are refused");
  }
  return undefined;
}

/** A body that is not JSON could be sent by a form of another site, without the browser asking first. */
export function contentRefusal(headers: IncomingHttpHeaders): Refusal | undefined {
  const type = headers["content-type"]?.split(";")[0]?.trim().toLowerCase();
  return type === "application/json" ? undefined : { status: 415, message: "expected application/json" };
}

/** Checks the token, which only those know who see the output of `sluice dev`. */
export function tokenRefusal(headers: IncomingHttpHeaders, { token }: Access): Refusal | undefined {
  const given = Buffer.from(String(headers[TOKEN_HEADER] ?? ""));
  const expected = Buffer.from(token);
  if (given.length === expected.length && timingSafeEqual(given, expected)) return undefined;
  return refused("the token is missing or wrong: open the URL that `sluice dev` printed");
}

function refused(message: string): Refusal {
  return { status: 403, message };
}
