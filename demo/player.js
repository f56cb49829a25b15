// Plays a reply while it is still being made. `hear` takes all that there is of it so far, as text: a first line
// with the reply's name and its sample rate, then each chunk as a line of base64, 16-bit samples.
window.usdmPlayer = (() => {
  const LEAD = 0.05; // seconds from the first chunk to its sound, so that it does not begin in the past
  const player = { reply: "", chunks: 0, seconds: 0 };
  let context = null;
  let end = 0; // when the last chunk ends, on the context's clock

  const samplesOf = (line) => {
    const bytes = Uint8Array.from(atob(line), (character) => character.charCodeAt(0));
    return Float32Array.from(new Int16Array(bytes.buffer), (sample) => sample / 32768);
  };

  const begin = (reply, rate) => {
    context?.close();
    context = reply ? new AudioContext({ sampleRate: rate }) : null;
    context?.resume();
    end = 0;
    Object.assign(player, { reply, chunks: 0, seconds: 0 });
  };

  const play = (samples) => {
    const buffer = context.createBuffer(1, samples.length, context.sampleRate);
    buffer.copyToChannel(samples, 0);
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    const start = Math.max(end, context.currentTime + LEAD);
    source.start(start);
    end = start + buffer.duration;
    player.chunks += 1;
    player.seconds += buffer.duration;
  };

  player.hear = (text) => {
    const [name, ...lines] = (text || "").split("\n");
    const [reply, rate] = name.split(" ");
    if (reply !== player.reply) begin(reply, Number(rate));
    lines.slice(player.chunks).forEach((line) => play(samplesOf(line)));
  };
  return player;
})();
