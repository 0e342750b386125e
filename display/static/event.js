// One event in the detector: the DOMs as a faint cloud, pulses as spheres (size: charge, colour: time), directions as arrows.

import {
  AmbientLight, BufferAttribute, BufferGeometry, Color, ConeGeometry, CylinderGeometry, DirectionalLight, DoubleSide, Group, InstancedMesh, Matrix4, Mesh,
  MeshBasicMaterial, MeshLambertMaterial, OrbitControls, PerspectiveCamera, Points, PointsMaterial, Quaternion, Scene, SphereGeometry, Vector3, WebGLRenderer,
} from "./vendor/three.js";
import { ofTime } from "./colours.js";

const PLAY_S = 4; // an event's pulses are played in this time
const MOST_PULSES = 4000; // spheres; the brightest of an event
const VIEW = new Vector3(1450, -1500, 420);
const LENGTH_M = 700;

export class EventDisplay {
  constructor(section) {
    this.section = section;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.host = section.querySelector("#scene");
    this.playedFrom = null;
    this.shown = null;
    try {
      this.renderer = new WebGLRenderer({ antialias: true });
    } catch {
      this.host.innerHTML = "<p>This browser has no WebGL, which the picture of the event needs. Its numbers are below.</p>";
      return;
    }
    this.renderer.setPixelRatio(Math.min(devicePixelRatio || 1, 2));
    this.renderer.setClearColor(0x0d1220);
    this.renderer.domElement.setAttribute("role", "img");
    this.renderer.domElement.setAttribute("aria-label", "The selected event in the detector; drag to rotate, scroll to zoom");
    this.host.append(this.renderer.domElement);
    this.scene = new Scene();
    this.scene.add(new AmbientLight(0xffffff, 1.6));
    const light = new DirectionalLight(0xffffff, 2);
    light.position.set(1, -2, 3);
    this.scene.add(light);
    this.camera = new PerspectiveCamera(38, 1, 10, 8000);
    this.camera.up.set(0, 0, 1);
    this.controls = new OrbitControls(this.camera, this.renderer.domElement);
    this.controls.addEventListener("change", () => this.draw());
    this.controls.minDistance = 150;
    this.controls.maxDistance = 4000;
    this.event = new Group();
    this.scene.add(this.event);
    // Made once: a material that is disposed of takes its shaders with it, and the next event would have them compiled again.
    const arrow = (colour) => new MeshBasicMaterial({ color: colour, depthTest: false, transparent: true, opacity: 0.95 });
    this.paint = {
      found: arrow(0xf0e442),
      truth: arrow(0x3fd6a2),
      challenger: arrow(0xcc79a7),
      cone: new MeshBasicMaterial({ color: 0xf0e442, transparent: true, opacity: 0.13, side: DoubleSide, depthWrite: false }),
      pulses: new MeshLambertMaterial(),
    };
    this.sphere = new SphereGeometry(1, 14, 10);
    new ResizeObserver(() => this.fit()).observe(this.host);
    this.reset();
  }

  /** @param positions [x, y, z] of each DOM, m */
  detector(positions) {
    this.positions = positions;
    if (!this.renderer) return;
    const cloud = new BufferGeometry();
    cloud.setAttribute("position", new BufferAttribute(new Float32Array(positions.flat()), 3));
    this.scene.add(new Points(cloud, new PointsMaterial({ color: 0x9db2d2, size: 7, transparent: true, opacity: 0.4, depthWrite: false })));
    this.draw();
  }

  reset() {
    if (!this.renderer) return;
    this.camera.position.copy(VIEW);
    this.controls.target.set(0, 0, 0);
    this.controls.update();
    this.draw();
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.host;
    if (!width || !height) return;
    this.renderer.setSize(width, height);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  /** Show an event as /live/event/ID gives it. */
  show(found) {
    this.shown = found;
    if (!this.renderer || !this.positions) return;
    this.forget();
    const centre = found.pulses ? this.addPulses(found.pulses) : new Vector3();
    this.addDirection(found.azimuth, found.zenith, centre, 5, "found");
    this.addCone(found, centre);
    if (found.true_azimuth !== null) this.addDirection(found.true_azimuth, found.true_zenith, centre, 2.5, "truth");
    if (found.challenger) this.addDirection(found.challenger.azimuth, found.challenger.zenith, centre, 3.5, "challenger");
    if (this.calm) this.at(1);
    else this.play();
  }

  forget() {
    this.event.traverse((part) => part.geometry !== this.sphere && part.geometry?.dispose());
    this.event.clear();
    this.spheres?.dispose();
    this.spheres = null;
    for (const name of ["found", "truth", "challenger", "pulses"]) delete this.section.dataset[name];
  }

  /** Spheres for the pulses, hidden until they are played; returns their charge-weighted centre. */
  addPulses(pulses) {
    const all = pulses.sensor_id.map((sensor, index) => ({
      at: this.positions[sensor], time: pulses.time_ns[index], charge: Math.max(pulses.charge_pe[index], 0.05), good: !pulses.auxiliary[index],
    }));
    const good = all.filter((pulse) => pulse.good);
    const core = (good.length ? good : all).sort((one, other) => one.time - other.time);
    // Noise before and after would squeeze the colours: they span the middle 96 % of the coincident pulses.
    this.early = core[Math.floor(0.02 * core.length)].time;
    this.late = Math.max(core[Math.ceil(0.98 * core.length) - 1].time, this.early + 1);
    // In order of time, so that playing them is counting them.
    this.pulses = all.sort((one, other) => other.charge - one.charge).slice(0, MOST_PULSES).sort((one, other) => one.time - other.time);
    this.spheres = new InstancedMesh(this.sphere, this.paint.pulses, this.pulses.length);
    const place = new Matrix4();
    this.pulses.forEach((pulse, index) => {
      const [red, green, blue] = ofTime((pulse.time - this.early) / (this.late - this.early));
      const dim = pulse.good ? 1 : 0.45;
      this.spheres.setColorAt(index, new Color().setRGB((red / 255) * dim, (green / 255) * dim, (blue / 255) * dim, "srgb"));
      const size = pulse.good ? 7 + 6 * Math.cbrt(pulse.charge) : 4 + 3 * Math.cbrt(pulse.charge);
      this.spheres.setMatrixAt(index, place.makeScale(size, size, size).setPosition(...pulse.at));
    });
    this.spheres.frustumCulled = false; // three.js would cull by the spheres of the first frame
    this.event.add(this.spheres);
    const centre = new Vector3();
    let charge = 0;
    for (const pulse of core) {
      centre.addScaledVector(new Vector3(...pulse.at), pulse.charge);
      charge += pulse.charge;
    }
    return centre.divideScalar(charge);
  }

  /** An arrow along the particle's way, through the centre. */
  addDirection(azimuth, zenith, centre, width, name) {
    const origin = from(azimuth, zenith);
    const arrow = new Group(); // along its own y axis
    const paint = this.paint[name];
    const shaft = new Mesh(new CylinderGeometry(width, width, LENGTH_M, 10), paint);
    const head = new Mesh(new ConeGeometry(4.5 * width, 15 * width, 20), paint);
    head.position.y = LENGTH_M / 2;
    arrow.add(shaft, head);
    shaft.renderOrder = head.renderOrder = 1; // not hidden by pulses
    arrow.quaternion.setFromUnitVectors(new Vector3(0, 1, 0), origin.clone().negate());
    arrow.position.copy(centre);
    this.event.add(arrow);
    // What is really drawn: the direction in which the arrow points.
    const drawn = new Vector3(0, 1, 0).applyQuaternion(arrow.quaternion);
    this.section.dataset[name] = drawn.toArray().map((value) => value.toFixed(6)).join(" ");
  }

  /** The cone around the direction that holds the origin with 90 %. */
  addCone(found, centre) {
    const half = (found.radius_90_deg * Math.PI) / 180;
    if (half > 1.3) return; // nearly half of the sky or more: a cone would only hide the rest
    const height = Math.min(LENGTH_M / 2, 420 / Math.tan(half));
    const cone = new Mesh(new ConeGeometry(height * Math.tan(half), height, 48, 1, true), this.paint.cone);
    const origin = from(found.azimuth, found.zenith);
    cone.quaternion.copy(new Quaternion().setFromUnitVectors(new Vector3(0, -1, 0), origin));
    cone.position.copy(centre).addScaledVector(origin, height / 2);
    this.event.add(cone);
  }

  play() {
    if (!this.spheres) return this.at(1);
    const running = this.playedFrom !== null;
    this.playedFrom = performance.now();
    if (!running) requestAnimationFrame(() => this.frame());
  }

  frame() {
    const share = (performance.now() - this.playedFrom) / (PLAY_S * 1000);
    this.at(share);
    if (share < 1) requestAnimationFrame(() => this.frame());
    else this.playedFrom = null;
  }

  /** Show what has happened until a share of the event. */
  at(share) {
    if (this.spheres) {
      const now = this.early + share * 1.02 * (this.late - this.early);
      this.spheres.count = share < 1 ? this.pulses.filter((pulse) => pulse.time <= now).length : this.pulses.length;
      this.section.dataset.pulses = `${this.spheres.count} of ${this.pulses.length}`;
    }
    this.draw();
  }

  draw() {
    this.renderer.render(this.scene, this.camera);
  }
}

/** Unit vector to where a particle came from. */
function from(azimuth, zenith) {
  return new Vector3(Math.cos(azimuth) * Math.sin(zenith), Math.sin(azimuth) * Math.sin(zenith), Math.cos(zenith));
}
