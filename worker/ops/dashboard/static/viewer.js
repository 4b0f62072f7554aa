// Show our GLB files: one mesh, one primitive, one JPEG texture, matt. No dependencies. The model is in the page as base64
// (data-model), which needs no network, or at a URL (data-src). A browser allows some 16 WebGL contexts, so a viewer has one
// only while it is in view; until then, and without WebGL, it shows the poster.
"use strict";

const LIVE = 6;
const FIELD = (30 * Math.PI) / 180;
const still = matchMedia("(prefers-reduced-motion: reduce)");
const running = [];

const MODEL_VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in vec2 uv;
uniform mat4 project; uniform vec3 eye;
out vec3 n; out vec3 v; out vec2 t;
void main() { n = normal; v = eye - position; t = uv; gl_Position = project * vec4(position, 1.0); }`;

// The texture is a photo and already contains light, so a surface that faces the eye is drawn at about its own brightness.
// The lamps move with the eye: the product turns, the lighting does not.
const MODEL_FRAGMENT = `#version 300 es
precision highp float;
in vec3 n; in vec3 v; in vec2 t;
uniform sampler2D colour; uniform mat3 eyeAxes; uniform float rough;
out vec4 pixel;
float shine(vec3 N, vec3 V, vec3 L) {
  vec3 H = normalize(V + L);
  float a = rough * rough, nh = max(dot(N, H), 0.0), d = nh * nh * (a * a - 1.0) + 1.0;
  float f = 0.04 + 0.96 * pow(1.0 - max(dot(V, H), 0.0), 5.0);
  return f * a * a / (4.0 * d * d) * max(dot(N, L), 0.0);
}
void main() {
  vec3 V = normalize(v), N = normalize(n);
  if (dot(N, V) < 0.0) N = -N;
  vec3 base = texture(colour, t).rgb;
  vec3 key = normalize(eyeAxes * vec3(-0.55, 0.75, 0.85)), rim = normalize(eyeAxes * vec3(0.9, 0.35, -0.45));
  vec3 light = mix(vec3(0.34, 0.33, 0.32), vec3(0.62, 0.63, 0.66), N.y * 0.5 + 0.5);
  light += vec3(0.62, 0.60, 0.57) * max(dot(N, key) * 0.8 + 0.2, 0.0);
  light += vec3(0.30, 0.32, 0.36) * max(dot(N, rim), 0.0);
  vec3 c = base * light + shine(N, V, key) * 0.9 + shine(N, V, rim) * 0.7;
  c = mix(c, 1.0 - (1.0 - 0.8) * exp(-(c - 0.8) / (1.0 - 0.8)), step(0.8, c));
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
    rough: surface.roughnessFactor ?? 1,
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
  return { eye, project, axes: [...right, ...up, ...back] };
}

class Viewer {
  constructor(stage) {
    this.stage = stage;
    this.home();
    this.touched = still.matches;
    this.seen = false;
    this.fingers = new Map();
    stage.addEventListener("pointerdown", (event) => this.press(event));
    stage.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => this.release(event));
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("keydown", (event) => this.key(event));
    stage.addEventListener("dblclick", () => this.home());
    new ResizeObserver(() => this.wake()).observe(stage);
    new IntersectionObserver(([entry]) => {
      this.seen = entry.isIntersecting;
      if (this.seen) this.start();
    }, { rootMargin: "80px" }).observe(stage);
  }

  home() {
    this.pose = { turn: 0.45, lift: 0.16, near: 1 };
    this.wake();
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
    this.stage.append(canvas);
    this.stage.dataset.state = "live";
    this.wake();
  }

  stop() {
    const canvas = this.canvas;
    if (!canvas) return;
    this.canvas = null;
    this.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    this.gl = null;
    canvas.remove();
    running.splice(running.indexOf(this), 1);
    this.stage.dataset.state = "waiting";
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
    if (!this.touched) this.pose.turn += Math.min(now - (this.before ?? now), 100) * 0.00035;
    this.before = now;
    const { gl, canvas, shape, floor, box } = this;
    const sharp = Math.min(devicePixelRatio, 2);
    const [width, height] = [this.stage.clientWidth * sharp, this.stage.clientHeight * sharp].map(Math.round);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const { eye, project, axes } = camera(this.pose, box, width / height);
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);

    gl.useProgram(shape.program);
    gl.bindVertexArray(shape.array);
    gl.bindTexture(gl.TEXTURE_2D, this.colour);
    gl.uniformMatrix4fv(shape.at("project"), false, project);
    gl.uniform3fv(shape.at("eye"), eye);
    gl.uniformMatrix3fv(shape.at("eyeAxes"), false, axes);
    gl.uniform1f(shape.at("rough"), this.model.rough);
    gl.drawElements(gl.TRIANGLES, this.model.index.length, this.kind, 0);

    if (this.pose.lift > -0.02) {
      gl.useProgram(floor.program);
      gl.bindVertexArray(floor.array);
      gl.bindTexture(gl.TEXTURE_2D, this.shadow);
      gl.uniformMatrix4fv(floor.at("project"), false, project);
      gl.uniform4f(floor.at("place"), box.centre[0], box.base, box.centre[2], this.cast.reach);
      gl.enable(gl.BLEND);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
      gl.disable(gl.BLEND);
    }
    if (!this.touched) this.wake();
  }

  press(event) {
    this.touched = true;
    this.start();
    this.fingers.set(event.pointerId, event);
    this.stage.setPointerCapture(event.pointerId);
  }

  drag(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const other = [...this.fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
    const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
    if (other) this.zoom(apart(before) / Math.max(apart(event), 1));
    else this.orbit((before.clientX - event.clientX) * 0.008, (event.clientY - before.clientY) * 0.006);
    this.fingers.set(event.pointerId, event);
  }

  release(event) {
    this.fingers.delete(event.pointerId);
  }

  // The wheel zooms only in a viewer that was clicked, because the page must keep scrolling under the mouse.
  wheel(event) {
    if (document.activeElement !== this.stage) return;
    event.preventDefault();
    this.zoom(Math.exp(event.deltaY * (event.deltaMode ? 0.04 : 0.0012)));
  }

  key(event) {
    const [turn, lift] = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key] ?? [];
    if (turn === undefined) return;
    event.preventDefault();
    this.touched = true;
    this.orbit(turn, lift);
  }

  orbit(turn, lift) {
    this.pose.turn += turn;
    this.pose.lift = Math.min(Math.max(this.pose.lift + lift, -0.5), 1.45);
    this.wake();
  }

  zoom(factor) {
    this.touched = true;
    this.pose.near = Math.min(Math.max(this.pose.near * factor, 0.35), 2.5);
    this.wake();
  }
}

for (const stage of document.querySelectorAll("[data-model], [data-src]")) new Viewer(stage);
