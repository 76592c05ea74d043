/** Values from the code for the templates. osls loads only `.js` files, so this re-exports `values.ts`. */

export {
  access,
  addressHash,
  alarmTopic,
  durability,
  flowEvents,
  keys,
  libraryHash,
  monitoring,
  permissionsBoundary,
  workers,
} from "./values.ts";
