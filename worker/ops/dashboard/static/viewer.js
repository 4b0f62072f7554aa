// Show our GLB files: one mesh, one primitive, one JPEG texture, matt. No dependencies. The model is in the page as base64
// (data-model), which needs no network, or at a URL (data-src). A browser allows some 16 WebGL contexts, so a viewer has one
// only while it is in view; until then, and without WebGL, it shows the poster.
"use strict";

const LIVE = 6;
const DEGREE = Math.PI / 180;
const FIELD = 30 * DEGREE;
const SIDES = ["front", "front left", "left", "back left", "back", "back right", "right", "front right"];
const still = matchMedia("(prefers-reduced-motion: reduce)");
const running = [];

const MODEL_VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in vec2 uv;
uniform mat4 project; uniform vec3 eye;
out vec3 n; out vec3 v; out vec2 t;
void main() { n = normal; v = eye - position; t = uv; gl_Position = project * vec4(position, 1.0); }`;

// Shops show the model in Google's <model-viewer>, so this is drawn like there: in the light of its "neutral" room, which is fixed
// to the product, with Khronos' tone mapping "PBR Neutral". `light` is that room's light on a matt surface that looks in a
// direction, as a polynomial, and `gloss` the sheen of the roughness 0.85, which all our models have; both are fitted to balls
// of one colour that model-viewer drew. tests/ops/dashboard/model_viewer.py compares the two.
const MODEL_FRAGMENT = `#version 300 es
precision highp float;
in vec3 n; in vec3 v; in vec2 t;
uniform sampler2D colour;
out vec4 pixel;
float light(vec3 d) {
  float x = d.x, y = d.y, z = d.z;
  return 1.273 + y * (0.839 - y * (0.249 + 0.393 * y)) + x * (0.023 - y * (0.095 + 0.111 * y))
    + x * x * (0.004 + 0.186 * y - 0.058 * x) - z * (0.020 + y * (0.093 + 0.079 * y) + x * (0.255 + 0.048 * y + 0.032 * x));
}
float gloss(float facing) { return 0.0816 - facing * (0.1773 - facing * (0.185 - 0.0685 * facing)); }
vec3 neutral(vec3 c) {
  float low = min(c.r, min(c.g, c.b));
  c -= low < 0.08 ? low - 6.25 * low * low : 0.04;
  float peak = max(c.r, max(c.g, c.b));
  if (peak < 0.76) return c;
  float pressed = 1.0 - 0.0576 / (peak - 0.52);
  return mix(vec3(pressed), c * pressed / peak, 1.0 / (0.15 * (peak - pressed) + 1.0));
}
void main() {
  vec3 V = normalize(v), N = normalize(n);
  if (dot(N, V) < 0.0) N = -N;
  vec3 c = texture(colour, t).rgb * light(N) + gloss(dot(N, V)) * light(normalize(mix(reflect(-V, N), N, 0.55)));
  c = neutral(c);
  c = mix(12.92 * c, 1.055 * pow(c, vec3(1.0 / 2.4)) - 0.055, step(0.0031308, c));
  pixel = vec4(c, 1.0);
}`;

const FLOOR_VERTEX = `#version 300 es
in vec2 corner; uniform mat4 project; uniform vec4 place; out vec2 t;
void main() {
  t = corner * 0.5 + 0.5;
  gl_Position = project * vec4(place.x + corner.x * place.w, place.y, place.z + corner.y * place.w, 1.0);
}`;

const FLOOR_FRAGMENT = `#version 300 es
precision mediump float;
in vec2 t; uniform sampler2D shadow; out vec4 pixel;
void main() { pixel = vec4(0.0, 0.0, 0.0, texture(shadow, t).r * 0.5); }`;

function decode(base64) {
  const text = atob(base64.trim());
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0)).buffer;
}

async function load({ model, src }) {
  if (model) return decode(document.getElementById(model).textContent);
  const answer = await fetch(src, { credentials: "omit" });
  if (!answer.ok) throw new Error(`${answer.status} instead of a model`);
  return answer.arrayBuffer();
}

function readGlb(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0, true) !== 0x46546c67) throw new Error("not a GLB");
  const jsonLength = view.getUint32(12, true);
  const gltf = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 20, jsonLength)));
  const start = 20 + jsonLength + 8;
  const slice = (index) => {
    const part = gltf.bufferViews[index];
    return new Uint8Array(buffer, start + (part.byteOffset ?? 0), part.byteLength);
  };
  const array = (index) => {
    const accessor = gltf.accessors[index];
    const type = { 5121: Uint8Array, 5123: Uint16Array, 5125: Uint32Array, 5126: Float32Array }[accessor.componentType];
    const width = { SCALAR: 1, VEC2: 2, VEC3: 3 }[accessor.type];
    const bytes = slice(accessor.bufferView);
    const offset = bytes.byteOffset + (accessor.byteOffset ?? 0);
    return new type(buffer.slice(offset, offset + accessor.count * width * type.BYTES_PER_ELEMENT));
  };
  const part = gltf.meshes[0].primitives[0];
  const surface = gltf.materials[part.material].pbrMetallicRoughness;
  const image = gltf.images[gltf.textures[surface.baseColorTexture.index].source];
  return {
    position: array(part.attributes.POSITION),
    normal: array(part.attributes.NORMAL),
    uv: array(part.attributes.TEXCOORD_0),
    index: array(part.indices),
    image: new Blob([slice(image.bufferView)], { type: image.mimeType }),
  };
}

function bounds(position) {
  const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
  position.forEach((value, i) => {
    low[i % 3] = Math.min(low[i % 3], value);
    high[i % 3] = Math.max(high[i % 3], value);
  });
  const centre = low.map((value, i) => (value + high[i]) / 2);
  // The product turns around its vertical axis, so a cylinder must fit into the frame.
  const half = high[1] - centre[1];
  let wide = 0;
  for (let i = 0; i < position.length; i += 3) {
    wide = Math.max(wide, Math.hypot(position[i] - centre[0], position[i + 2] - centre[2]));
  }
  return { centre, base: low[1], half, wide, radius: Math.hypot(half, wide) };
}

// The shadow on the floor: how close the model is above each spot, blurred. Computed once, from points on the triangles.
function castShadow({ position, index }, { centre, base, radius }, size) {
  const reach = radius * 1.5, cell = (2 * reach) / size;
  let field = new Float32Array(size * size);
  for (let i = 0; i < index.length; i += 3) {
    const [a, b, c] = [0, 1, 2].map((k) => position.subarray(index[i + k] * 3, index[i + k] * 3 + 3));
    const long = Math.max(Math.hypot(a[0] - b[0], a[2] - b[2]), Math.hypot(a[0] - c[0], a[2] - c[2]));
    const steps = Math.min(Math.ceil(long / cell) + 1, 48);
    for (let u = 0; u <= steps; u++) {
      for (let v = 0; v <= steps - u; v++) {
        const [x, y, z] = [0, 1, 2].map((k) => a[k] + ((b[k] - a[k]) * u + (c[k] - a[k]) * v) / steps);
        const spot = Math.floor((z - centre[2] + reach) / cell) * size + Math.floor((x - centre[0] + reach) / cell);
        field[spot] = Math.max(field[spot], Math.exp((-5 * (y - base)) / radius));
      }
    }
  }
  for (let pass = 0; pass < 6; pass++) {
    const step = pass % 2 ? size : 1, width = 1 + (pass >> 1), blurred = new Float32Array(field.length);
    for (let i = 0; i < field.length; i++) {
      for (let k = -width; k <= width; k++) blurred[i] += (field[i + k * step] ?? 0) / (2 * width + 1);
    }
    field = blurred;
  }
  return { reach, pixels: Uint8Array.from(field, (value) => 255 * Math.min(1, value)) };
}

function link(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  return { program, at: (name) => gl.getUniformLocation(program, name) };
}

function attribute(gl, program, name, data, width) {
  const place = gl.getAttribLocation(program, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
  gl.enableVertexAttribArray(place);
  gl.vertexAttribPointer(place, width, gl.FLOAT, false, 0, 0);
}

function texture(gl, upload, filter) {
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  upload();
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, filter);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  return made;
}

// The eye's position, and the matrix from the model to the screen, column by column.
function camera({ turn, lift, near }, { centre, half, wide, radius }, aspect) {
  const far = (Math.max(half * 1.16, (wide * 1.06) / aspect) / Math.tan(FIELD / 2) + wide) * near;
  const back = [Math.sin(turn) * Math.cos(lift), Math.sin(lift), Math.cos(turn) * Math.cos(lift)];
  const right = [Math.cos(turn), 0, -Math.sin(turn)];
  const up = [
    back[1] * right[2] - back[2] * right[1],
    back[2] * right[0] - back[0] * right[2],
    back[0] * right[1] - back[1] * right[0],
  ];
  const eye = centre.map((value, i) => value + back[i] * far);
  const against = (axis) => -(axis[0] * eye[0] + axis[1] * eye[1] + axis[2] * eye[2]);
  const y = 1 / Math.tan(FIELD / 2), x = y / aspect;
  const [n, f] = [Math.max(far - radius * 3, far * 0.02), far + radius * 3];
  const p = (n + f) / (n - f), q = (2 * n * f) / (n - f);
  const column = (r, u, b) => [x * r, y * u, p * b, -b];
  const project = [0, 1, 2].flatMap((i) => column(right[i], up[i], back[i]));
  project.push(x * against(right), y * against(up), p * against(back) + q, -against(back));
  return { eye, project };
}

// Where the camera stands: on a circle around the product, from its front towards its left. The viewers of a pair share one, so
// that two versions turn together, and the radio button of a photo turns them to the angle from which it was taken.
class Pose {
  constructor(pair) {
    this.viewers = new Set();
    this.home = Number(pair.querySelector("input[data-turn]:checked")?.dataset.turn ?? 0) * DEGREE;
    this.at = { turn: this.home, lift: 0, near: 1 };
    this.goal = { ...this.at };
    this.spinning = false;
    this.greeted = still.matches;
    pair.addEventListener("change", ({ target }) => {
      if (target.dataset.turn !== undefined) this.face((this.home = Number(target.dataset.turn) * DEGREE));
    });
  }

  // Turn the short way to a side, level with it, as a photo shows it.
  face(turn) {
    this.spin(false);
    const apart = turn - this.goal.turn;
    this.move({ turn: this.goal.turn + Math.atan2(Math.sin(apart), Math.cos(apart)), lift: 0, near: 1 });
  }

  orbit(turn, lift, at_once = false) {
    this.spin(false);
    this.move({ turn: this.goal.turn + turn, lift: Math.min(Math.max(this.goal.lift + lift, -0.5), 1.45) }, at_once);
  }

  zoom(factor) {
    this.move({ near: Math.min(Math.max(this.goal.near * factor, 0.35), 2.5) });
  }

  move(where, at_once = still.matches) {
    this.greeted = true;
    Object.assign(this.goal, where);
    if (at_once) Object.assign(this.at, where);
    this.changed();
  }

  spin(on) {
    this.spinning = on;
    this.changed();
  }

  changed() {
    for (const viewer of this.viewers) {
      viewer.describe();
      viewer.wake();
    }
  }

  // A new model turns half around and comes to rest at the photo's angle.
  greet() {
    if (this.greeted) return;
    this.greeted = true;
    this.at.turn = this.goal.turn - 2.4;
  }

  // Come nearer to the goal. True while there is something left to move.
  step(now) {
    const seconds = Math.min(now - (this.before ?? now), 100) / 1000;
    this.before = now;
    if (this.spinning) this.goal.turn = this.at.turn += seconds * 0.6;
    let moving = this.spinning;
    for (const axis in this.goal) {
      const apart = this.goal[axis] - this.at[axis];
      this.at[axis] = Math.abs(apart) < 0.0005 ? this.goal[axis] : this.at[axis] + apart * (1 - Math.exp(-seconds * 5));
      moving ||= this.at[axis] !== this.goal[axis];
    }
    if (!moving) this.before = undefined;
    return moving;
  }
}

const poses = new WeakMap();
function poseOf(stage) {
  const pair = stage.closest("[data-pair]") ?? stage;
  if (!poses.has(pair)) poses.set(pair, new Pose(pair));
  return poses.get(pair);
}

class Viewer {
  constructor(stage) {
    this.stage = stage;
    this.view = stage.querySelector(".view");
    this.tools = stage.querySelector(".tools");
    this.pose = poseOf(stage);
    this.seen = false;
    this.fingers = new Map();
    const { view } = this;
    view.addEventListener("pointerdown", (event) => this.press(event));
    view.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) view.addEventListener(end, (event) => this.release(event));
    view.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    view.addEventListener("keydown", (event) => this.key(event));
    view.addEventListener("dblclick", () => this.pose.face(this.pose.home));
    this.tools?.addEventListener("click", ({ target }) => this.press_tool(target.dataset));
    new ResizeObserver(() => this.wake()).observe(view);
    new IntersectionObserver(([entry]) => {
      this.seen = entry.isIntersecting;
      if (this.seen) this.start();
    }, { rootMargin: "80px" }).observe(view);
  }

  async start() {
    if (this.canvas) return this.wake();
    const away = running.filter((viewer) => !viewer.seen);
    if (running.length >= LIVE && away.length) away[0].stop();
    const canvas = (this.canvas = document.createElement("canvas"));
    running.push(this);
    try {
      this.model ??= readGlb(await load(this.stage.dataset));
      this.box ??= bounds(this.model.position);
      const image = await createImageBitmap(this.model.image, { colorSpaceConversion: "none" });
      if (this.canvas !== canvas) return;
      this.gl = canvas.getContext("webgl2", { antialias: true, alpha: true });
      if (!this.gl) throw new Error("no WebGL");
      this.build(image);
    } catch (problem) {
      this.stop();
      this.stage.dataset.state = "poster";
      console.warn(`The model stays a picture: ${problem.message}`);
      return;
    }
    // A lost context is not repaired: the viewer starts again as it did first.
    canvas.addEventListener("webglcontextlost", () => this.canvas === canvas && this.stop());
    this.view.append(canvas);
    this.stage.dataset.state = "live";
    this.pose.viewers.add(this);
    this.pose.greet();
    // A slider is what screen readers pass the arrow keys to. It says where it is when somebody has turned it, and not before.
    const name = `${this.view.dataset.label ?? "3D model"}. Arrow keys turn it, plus and minus zoom, Home returns to the photo's angle.`;
    const attributes = { role: "slider", tabindex: 0, "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 360 };
    for (const attribute in attributes) this.view.setAttribute(attribute, attributes[attribute]);
    if (this.tools) this.tools.hidden = false;
    this.describe();
    this.wake();
  }

  stop() {
    const canvas = this.canvas;
    if (!canvas) return;
    this.canvas = null;
    this.pose.viewers.delete(this);
    this.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    this.gl = null;
    canvas.remove();
    running.splice(running.indexOf(this), 1);
    this.stage.dataset.state = "waiting";
  }

  describe() {
    const { turn, lift } = this.pose.goal;
    const degrees = Math.round((((turn / DEGREE) % 360) + 360) % 360) % 360;
    const raised = Math.round(lift / DEGREE);
    const side = SIDES[Math.round(degrees / 45) % 8];
    const height = raised ? `, ${Math.abs(raised)} degrees from ${raised > 0 ? "above" : "below"}` : "";
    this.view.setAttribute("aria-valuenow", degrees);
    this.view.setAttribute("aria-valuetext", `${side}, ${degrees} degrees${height}`);
    this.tools?.querySelector("[data-spin]")?.setAttribute("aria-pressed", this.pose.spinning);
  }

  build(image) {
    const { gl, model } = this;
    this.shape = link(gl, MODEL_VERTEX, MODEL_FRAGMENT);
    this.shape.array = gl.createVertexArray();
    gl.bindVertexArray(this.shape.array);
    attribute(gl, this.shape.program, "position", model.position, 3);
    attribute(gl, this.shape.program, "normal", model.normal, 3);
    attribute(gl, this.shape.program, "uv", model.uv, 2);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, model.index, gl.STATIC_DRAW);
    this.kind = { 1: gl.UNSIGNED_BYTE, 2: gl.UNSIGNED_SHORT, 4: gl.UNSIGNED_INT }[model.index.BYTES_PER_ELEMENT];
    this.colour = texture(gl, () => {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.SRGB8_ALPHA8, gl.RGBA, gl.UNSIGNED_BYTE, image);
      gl.generateMipmap(gl.TEXTURE_2D);
    }, gl.LINEAR_MIPMAP_LINEAR);

    const size = 96;
    this.cast ??= castShadow(model, this.box, size);
    this.floor = link(gl, FLOOR_VERTEX, FLOOR_FRAGMENT);
    this.floor.array = gl.createVertexArray();
    gl.bindVertexArray(this.floor.array);
    attribute(gl, this.floor.program, "corner", new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), 2);
    this.shadow = texture(gl, () => {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.R8, size, size, 0, gl.RED, gl.UNSIGNED_BYTE, this.cast.pixels);
    }, gl.LINEAR);
    gl.enable(gl.DEPTH_TEST);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  wake() {
    if (this.gl) this.frame ||= requestAnimationFrame((now) => this.draw(now));
  }

  draw(now) {
    this.frame = 0;
    if (!this.gl || !this.seen) return;
    const moving = this.pose.step(now);
    const { gl, canvas, shape, floor, box } = this;
    const sharp = Math.min(devicePixelRatio, 2);
    const [width, height] = [this.view.clientWidth * sharp, this.view.clientHeight * sharp].map(Math.round);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const { eye, project } = camera(this.pose.at, box, width / height);
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);

    gl.useProgram(shape.program);
    gl.bindVertexArray(shape.array);
    gl.bindTexture(gl.TEXTURE_2D, this.colour);
    gl.uniformMatrix4fv(shape.at("project"), false, project);
    gl.uniform3fv(shape.at("eye"), eye);
    gl.drawElements(gl.TRIANGLES, this.model.index.length, this.kind, 0);

    if (this.pose.at.lift > -0.02) {
      gl.useProgram(floor.program);
      gl.bindVertexArray(floor.array);
      gl.bindTexture(gl.TEXTURE_2D, this.shadow);
      gl.uniformMatrix4fv(floor.at("project"), false, project);
      gl.uniform4f(floor.at("place"), box.centre[0], box.base, box.centre[2], this.cast.reach);
      gl.enable(gl.BLEND);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
      gl.disable(gl.BLEND);
    }
    if (moving) this.wake();
  }

  press(event) {
    this.start();
    this.fingers.set(event.pointerId, event);
    this.view.setPointerCapture(event.pointerId);
  }

  drag(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const other = [...this.fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
    const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
    if (other) this.pose.zoom(apart(before) / Math.max(apart(event), 1));
    else this.pose.orbit((before.clientX - event.clientX) * 0.008, (event.clientY - before.clientY) * 0.006, true);
    this.fingers.set(event.pointerId, event);
  }

  release(event) {
    this.fingers.delete(event.pointerId);
  }

  // The wheel zooms only in a viewer that was clicked, because the page must keep scrolling under the mouse.
  wheel(event) {
    if (document.activeElement !== this.view) return;
    event.preventDefault();
    this.pose.zoom(Math.exp(event.deltaY * (event.deltaMode ? 0.04 : 0.0012)));
  }

  key(event) {
    const { pose } = this, by = event.shiftKey ? 45 : 15;
    const act = {
      ArrowLeft: () => pose.orbit(-by * DEGREE, 0),
      ArrowRight: () => pose.orbit(by * DEGREE, 0),
      ArrowUp: () => pose.orbit(0, 10 * DEGREE),
      ArrowDown: () => pose.orbit(0, -10 * DEGREE),
      "+": () => pose.zoom(0.8),
      "=": () => pose.zoom(0.8),
      "-": () => pose.zoom(1.25),
      Home: () => pose.face(pose.home),
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  }

  press_tool({ turn, zoom, spin }) {
    if (turn !== undefined) this.pose.face(Number(turn) * DEGREE);
    else if (zoom !== undefined) this.pose.zoom(Number(zoom));
    else if (spin !== undefined) this.pose.spin(!this.pose.spinning);
  }
}

for (const stage of document.querySelectorAll("[data-model], [data-src]")) new Viewer(stage);
