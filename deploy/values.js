/** What the templates take from the code. osls loads `.js` only: the values themselves stand in `values.ts`. */

export { access, addressHash, dashboard, libraryHash } from "./values.ts";
