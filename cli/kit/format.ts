/** Texts for a person. */

export { duration, plural, shellWord, time } from "#operate/words.ts";
