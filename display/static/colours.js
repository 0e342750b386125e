// Colour scales that colour-blind readers can tell apart: cividis for κ, a part of viridis for time.

const CIVIDIS = ["#2b4a8b", "#575c6d", "#7a7b78", "#a39a76", "#cbb968", "#fee838"];
const TIME = ["#fde725", "#7ad151", "#22a884", "#2a788e", "#5c6fd6"]; // early to late

function scale(colours, share) {
  const place = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
  const low = Math.min(Math.floor(place), colours.length - 2);
  const parts = [colours[low], colours[low + 1]].map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  return parts[0].map((value, index) => Math.round(value + (parts[1][index] - value) * (place - low)));
}

/** [r, g, b] of a concentration κ: 0.1 is low confidence, 3000 high. */
export const ofKappa = (kappa) => scale(CIVIDIS, (Math.log10(Math.max(kappa, 0.1)) + 1) / 4.5);

/** [r, g, b] of a time as a share of the event. */
export const ofTime = (share) => scale(TIME, share);
