const SIDE = 64;

/** The graph for some images: list → one resize for each image → contact sheet. */
export function thumbnailWorkflow(keys: readonly string[]) {
  const resizes = keys.map((key, at) => ({
    id: `resize-${at + 1}`,
    lane: "images",
    kind: "resize",
    dependsOn: ["list"],
    payload: { key, side: SIDE },
  }));
  const ids = resizes.map(({ id }) => id);
  return {
    name: "thumbnails",
    tasks: [
      { id: "list", lane: "images", kind: "list", payload: { keys } },
      ...resizes,
      {
        id: "contact-sheet",
        lane: "images",
        kind: "contact-sheet",
        dependsOn: ids,
        payload: { thumbnails: ids, side: SIDE, target: "contact-sheet.png" },
      },
    ],
  };
}
