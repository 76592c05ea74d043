/** What the page shows, as the fragment of its URL: `#/flows/<flow>/<execution>`, `#/lanes`, `#/dead-letters`. */

import { useEffect, useState } from "preact/hooks";

export type Route =
  | { readonly view: "flows"; readonly flow?: string | undefined; readonly execution?: string | undefined }
  | { readonly view: "lanes" }
  | { readonly view: "dead-letters" };

function parse(hash: string): Route {
  const [view, flow, execution] = hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  if (view === "lanes" || view === "dead-letters") return { view };
  return { view: "flows", flow: flow || undefined, execution: execution || undefined };
}

export function hrefOf(route: Route): string {
  if (route.view !== "flows") return `#/${route.view}`;
  const parts = [route.flow, route.flow && route.execution].filter((part) => part !== undefined);
  return `#/flows/${parts.map(encodeURIComponent).join("/")}`;
}

export function goTo(route: Route): void {
  location.hash = hrefOf(route);
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => {
    const onChange = (): void => setRoute(parse(location.hash));
    addEventListener("hashchange", onChange);
    return () => removeEventListener("hashchange", onChange);
  }, []);
  return route;
}
