/** A fake of FlowFabric's library: Sluice's own, with a search for cycles that has FlowFabric's limit. */

import { librarySource } from "#lua/library.ts";
import type { Edition } from "#shared/contract/edition.ts";

/** Nodes that FlowFabric's search visits before it reports a cycle. */
export const FLOWFABRIC_LIMIT = 1_000;

const limitedSearch = (limit: number) => `
local function is_reachable(prefix, start, goal)
  local queue, seen, at = { start }, { [start] = true }, 1
  while queue[at] do
    if at > ${limit} then
      return true
    end
    for _, edge_id in ipairs(server.call('SMEMBERS', prefix .. 'out:' .. queue[at])) do
      local member = server.call('HGET', prefix .. 'edge:' .. edge_id, 'downstream_execution_id')
      if member == goal then
        return true
      end
      if member and not seen[member] then
        seen[member] = true
        queue[#queue + 1] = member
      end
    end
    at = at + 1
  end
  return false
end
`;

/**
 * The source of the fake. Its search goes forward from the downstream over the staged edges, and reports a cycle once it
 * has visited `limit` nodes. It also searches for edges that are already staged.
 */
export function limitedLibrarySource(edition: Edition, limit = FLOWFABRIC_LIMIT): string {
  const source = librarySource(edition);
  const reachability = /(-- source: lua\/reachability\.lua\n)[\s\S]*?(?=-- source: )/;
  const limited = replaced(source, reachability, limitedSearch(limit));
  return replaced(limited, /()not is_staged and (?=is_reachable\()/, "");
}

function replaced(source: string, pattern: RegExp, replacement: string): string {
  if (!pattern.test(source)) throw new Error(`the library's source does not match ${pattern}`);
  return source.replace(pattern, (_, kept: string) => kept + replacement);
}
