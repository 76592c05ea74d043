/** Values from the code for the templates. osls loads only `.js` files, so this re-exports `values.ts`. */

export { access, addressHash, dashboard, libraryHash } from "./values.ts";
