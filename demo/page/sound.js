// Sound in and out: the microphone's blocks, and a speaker that knows how much of a reply was heard.
export const RATE = 24000;

export const toBase64 = (samples) => {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(text);
};

export const fromBase64 = (text) => {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Int16Array(bytes.buffer);
};

// Opens the microphone: `hear` gets blocks of 16-bit samples until `close` is called on what is returned.
export const openMicrophone = async (hear) => {
  if (!navigator.mediaDevices) throw new Error("a page may listen only over https, or on this machine");
  const constraints = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: constraints });
  const context = new AudioContext();
  await context.audioWorklet.addModule(new URL("recorder.js", import.meta.url));
  const recorder = new AudioWorkletNode(context, "usdm-recorder", { numberOfOutputs: 0, channelCount: 1 });
  recorder.port.onmessage = (message) => hear(message.data);
  context.createMediaStreamSource(stream).connect(recorder);
  await context.resume();
  return {
    close() {
      stream.getTracks().forEach((track) => track.stop());
      context.close();
    },
  };
};

export class Speaker {
  constructor() {
    this.context = new AudioContext({ sampleRate: RATE });
    this.item = null; // whose sound it is
    this.chunks = []; // of the item: source, start and length in seconds
    this.end = 0; // when the last chunk ends, on the context's clock
    this.playedSamples = 0; // of all chunks that ended by themselves
    this.isHeld = false; // by what may be speech
  }

  get isPlaying() {
    return this.chunks.length > 0 && this.context.currentTime < this.end;
  }

  // Of the item, how much has come out.
  get playedMs() {
    const now = this.context.currentTime - (this.context.outputLatency || 0);
    const seconds = this.chunks.map(({ start, length }) => Math.max(0, Math.min(length, now - start)));
    return Math.floor(1000 * seconds.reduce((sum, each) => sum + each, 0));
  }

  // Wait, until `release` or the next reply.
  hold() {
    this.isHeld = true;
    this.context.suspend();
  }

  release() {
    this.isHeld = false;
    this.context.resume();
  }

  play(item, samples) {
    if (item !== this.item) {
      this.stop();
      this.item = item;
    }
    if (!samples.length) return;
    if (!this.isHeld) this.context.resume();
    const buffer = this.context.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(Float32Array.from(samples, (sample) => sample / 32768), 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    const start = Math.max(this.end, this.context.currentTime + 0.03);
    source.onended = () => (this.playedSamples += samples.length);
    source.start(start);
    this.end = start + buffer.duration;
    this.chunks.push({ source, start, length: buffer.duration });
  }

  // At once.
  stop() {
    this.isHeld = false;
    this.chunks.forEach(({ source }) => {
      source.onended = null;
      source.stop();
    });
    this.chunks = [];
    this.item = null;
    this.end = 0;
  }
}
