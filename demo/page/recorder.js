// In the sound thread: the microphone as blocks of 16-bit samples at 24 kHz, whatever the device's own rate is.
const RATE = 24000;
const BLOCK = 960; // samples, 40 ms

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.width = sampleRate / RATE; // of one sample that goes out, in samples that come in
    this.sum = 0;
    this.filled = 0;
    this.block = new Int16Array(BLOCK);
    this.size = 0;
  }

  process([[samples]]) {
    samples?.forEach((sample) => this.take(sample));
    return true;
  }

  // A sample that goes out is the mean of what comes in during it.
  take(sample) {
    let left = 1;
    while (left > 1e-9) {
      const part = Math.min(left, this.width - this.filled);
      this.sum += part * sample;
      this.filled += part;
      left -= part;
      if (this.filled > this.width - 1e-9) {
        this.emit(this.sum / this.width);
        this.sum = this.filled = 0;
      }
    }
  }

  emit(value) {
    this.block[this.size++] = Math.round(32767 * Math.max(-1, Math.min(1, value)));
    if (this.size < BLOCK) return;
    this.port.postMessage(this.block);
    this.block = new Int16Array(BLOCK);
    this.size = 0;
  }
}

registerProcessor("usdm-recorder", Recorder);
