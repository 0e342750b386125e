// The sky: every direction of the last minutes on an equal-area map (Mollweide), fading with age.

import { ofKappa } from "./colours.js";

const FADE_S = 300;
const MOST = 12000;
const TURN = 2 * Math.PI;

/** Mollweide: longitude in [-π, π] and latitude → x in [-2, 2], y in [-1, 1]. */
function project(longitude, latitude) {
  let theta = latitude;
  for (let step = 0; step < 8; step++) {
    const below = 2 + 2 * Math.cos(2 * theta);
    if (Math.abs(below) < 1e-9) break;
    theta -= (2 * theta + Math.sin(2 * theta) - Math.PI * Math.sin(latitude)) / below;
  }
  return [(2 / Math.PI) * longitude * Math.cos(theta), Math.sin(theta)];
}

const wrap = (angle) => angle - TURN * Math.floor((angle + Math.PI) / TURN);

const COORDINATES = {
  // Azimuth 0 in the middle, from above on top.
  detector: {
    of: (star) => [wrap(star.azimuth), Math.PI / 2 - star.zenith],
    meridian: (degrees) => `${(degrees + 360) % 360}°`,
  },
  // Right ascension grows to the left, as on maps of the sky.
  equatorial: { of: (star) => [wrap(-star.ascension), star.declination], meridian: (degrees) => `${((-degrees + 360) % 360) / 15}h` },
};

export class Sky {
  /** @param select called with the id of a direction that is clicked */
  constructor(section, select) {
    this.canvas = section.querySelector("canvas");
    this.kind = "detector";
    this.stars = [];
    this.selected = null;
    this.canvas.addEventListener("click", (event) => {
      const star = this.nearest(event.offsetX, event.offsetY);
      if (star) select(star.id);
    });
    for (const kind of Object.keys(COORDINATES))
      section.querySelector(`#${kind}`).addEventListener("click", () => this.turn(section, kind));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  turn(section, kind) {
    this.kind = kind;
    for (const other of Object.keys(COORDINATES)) section.querySelector(`#${other}`).setAttribute("aria-pressed", other === kind);
    for (const star of this.stars) this.place(star);
    this.draw();
  }

  place(star) {
    [star.x, star.y] = project(...COORDINATES[this.kind].of(star));
  }

  /** @param rows [id, azimuth, zenith, right ascension, declination, κ, 50 %, 90 % radius, Unix time] of each */
  add(rows) {
    for (const [id, azimuth, zenith, ascension, declination, kappa, half, most, when] of rows) {
      const star = { id, azimuth, zenith, ascension, declination, kappa, half, most, when, colour: ofKappa(kappa).join(",") };
      this.place(star);
      this.stars.push(star);
    }
    const oldest = Date.now() / 1000 - FADE_S;
    if (this.stars.length > MOST || this.stars[0]?.when < oldest)
      this.stars = this.stars.slice(-MOST).filter((star) => star.when >= oldest);
  }

  /** Mark an event and the regions that hold it with 50 and 90 %. */
  mark(event) {
    this.selected = event;
    this.draw();
  }

  frame() {
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    const unit = Math.min(width / 4.06, height / 2.04);
    const scale = Math.max(unit / 150, 1); // of dots, lines and words, so that they can be seen on a wall display
    return { width, height, unit, scale, at: (x, y) => [width / 2 + x * unit, height / 2 - y * unit] };
  }

  nearest(x, y) {
    const { at, scale } = this.frame();
    let best = null;
    let closest = (12 * scale) ** 2;
    for (const star of this.stars) {
      const [left, top] = at(star.x, star.y);
      const far = (left - x) ** 2 + (top - y) ** 2;
      if (far < closest) [closest, best] = [far, star];
    }
    return best;
  }

  draw() {
    const { width, height, unit, scale, at } = this.frame();
    const dense = window.devicePixelRatio || 1;
    this.canvas.width = width * dense;
    this.canvas.height = height * dense;
    const pen = this.canvas.getContext("2d");
    pen.scale(dense, dense);
    pen.fillStyle = "#0d1220";
    pen.beginPath();
    pen.ellipse(width / 2, height / 2, 2 * unit, unit, 0, 0, TURN);
    pen.fill();
    this.grid(pen, at, scale);
    const now = Date.now() / 1000;
    for (const star of this.stars) {
      const age = (now - star.when) / FADE_S;
      if (age > 1) continue;
      const [x, y] = at(star.x, star.y);
      const fresh = age < 0.01 ? 1.5 : 0;
      pen.fillStyle = `rgba(${star.colour},${(1 - age) ** 1.5 * 0.85 + 0.04})`;
      pen.beginPath();
      pen.arc(x, y, scale * (1.2 + fresh + Math.min(star.kappa, 1500) / 1500), 0, TURN);
      pen.fill();
    }
    this.labels(pen, at, scale);
    if (this.selected) this.contours(pen, at, scale);
  }

  grid(pen, at, scale) {
    pen.strokeStyle = "rgba(147,161,181,.22)";
    pen.lineWidth = scale;
    const line = (points) => {
      pen.beginPath();
      points.forEach(([longitude, latitude], index) => {
        const [x, y] = at(...project(longitude, latitude));
        index ? pen.lineTo(x, y) : pen.moveTo(x, y);
      });
      pen.stroke();
    };
    const steps = [...Array(61).keys()].map((step) => step / 60);
    for (let degrees = -180; degrees <= 180; degrees += 60) {
      const longitude = (degrees * Math.PI) / 180;
      line(steps.map((step) => [longitude, (step - 0.5) * Math.PI]));
    }
    for (let degrees = -60; degrees <= 60; degrees += 30) line(steps.map((step) => [(step - 0.5) * TURN, (degrees * Math.PI) / 180]));
  }

  /** Words of the grid: above the directions, with a dark rim, and inside the map, so that they are not cut off. */
  labels(pen, at, scale) {
    pen.font = `${11 * scale}px system-ui, sans-serif`;
    pen.fillStyle = "#c3cede";
    pen.strokeStyle = "#0d1220";
    pen.lineWidth = 3 * scale;
    const write = (text, x, y) => {
      pen.strokeText(text, x, y);
      pen.fillText(text, x, y);
    };
    pen.textAlign = "center";
    for (let degrees = -120; degrees <= 120; degrees += 60)
      write(COORDINATES[this.kind].meridian(degrees), ...at(...project((degrees * Math.PI) / 180, -0.06)));
    pen.textAlign = "left";
    for (let degrees = -60; degrees <= 60; degrees += 30) {
      const [x, y] = at(...project(-Math.PI, (degrees * Math.PI) / 180));
      write(this.kind === "detector" ? `zenith ${90 - degrees}°` : `${degrees}°`, x + 7 * scale, y + 4 * scale);
    }
  }

  contours(pen, at, scale) {
    const [longitude, latitude] = COORDINATES[this.kind].of(this.selected);
    for (const [radius, dash] of [[this.selected.half, []], [this.selected.most, [5 * scale, 4 * scale]]]) {
      pen.strokeStyle = "#f0e442";
      pen.lineWidth = 1.6 * scale;
      pen.setLineDash(dash);
      pen.beginPath();
      let before = null;
      for (let step = 0; step <= 120; step++) {
        const [x, y] = at(...project(...around(longitude, latitude, (radius * Math.PI) / 180, (step / 120) * TURN)));
        before !== null && Math.abs(x - before) < 80 * scale ? pen.lineTo(x, y) : pen.moveTo(x, y);
        before = x;
      }
      pen.stroke();
    }
    pen.setLineDash([]);
    pen.lineWidth = scale;
    const [x, y] = at(...project(longitude, latitude));
    pen.strokeStyle = "#fff";
    for (const turn of [0, 1, 2, 3]) {
      const [along, across] = [Math.cos((turn * Math.PI) / 2), Math.sin((turn * Math.PI) / 2)];
      pen.beginPath();
      pen.moveTo(x + 9 * scale * along, y + 9 * scale * across);
      pen.lineTo(x + 20 * scale * along, y + 20 * scale * across);
      pen.stroke();
    }
  }
}

/** The point at an angle from another, in a direction. */
function around(longitude, latitude, angle, bearing) {
  const sine = Math.sin(latitude) * Math.cos(angle) + Math.cos(latitude) * Math.sin(angle) * Math.cos(bearing);
  const turn = Math.atan2(
    Math.sin(bearing) * Math.sin(angle) * Math.cos(latitude),
    Math.cos(angle) - Math.sin(latitude) * sine,
  );
  return [wrap(longitude + turn), Math.asin(Math.min(Math.max(sine, -1), 1))];
}
