// A conversation over the server's WebSocket (OpenAI's Realtime protocol), and all that is known of its turns.
import { Speaker, fromBase64, toBase64 } from "./sound.js";

const RETRY = 1000; // milliseconds between two attempts to reach a server that went away
const TELL = 200; // milliseconds between two words about what was played

export class Session {
  // `changed` is called when a turn or a state is new; `complain` is given words for the person.
  constructor(token, changed, complain) {
    Object.assign(this, { token, changed, complain });
    this.turns = []; // {id, role, text, heard, units, sound, state}
    this.speaker = new Speaker();
    this.settings = {};
    this.socket = null;
    this.isOpen = false; // the server has answered
    this.isWanted = false; // the person wants to talk
    this.isHearing = false; // the server hears somebody
    this.response = null; // {id, item} that is being made
    this.silenced = new Set(); // items whose sound nobody wants any more
    this.ticker = setInterval(() => this.tellPlayed(), TELL);
  }

  open() {
    this.isWanted = true;
    if (this.socket) return;
    const protocols = ["realtime", ...(this.token ? [`openai-insecure-api-key.${this.token}`] : [])];
    const url = new URL("v1/realtime", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.socket = new WebSocket(url, protocols));
    socket.onmessage = (message) => this.receive(JSON.parse(message.data));
    socket.onclose = () => this.lost(socket);
  }

  // Hang up; what was said stays in the page.
  close() {
    this.isWanted = false;
    this.silence();
    const { socket } = this;
    this.lost(socket);
    socket?.close();
  }

  // Nothing is left of it.
  forget() {
    this.close();
    this.turns = [];
    this.changed();
  }

  lost(socket) {
    if (socket !== this.socket) return;
    const wasOpen = this.isOpen;
    this.socket = this.response = null;
    this.isOpen = this.isHearing = false;
    this.speaker.stop();
    this.turns = this.turns.filter((turn) => turn.text || turn.sound.length);
    this.turns.forEach((turn) => {
      if (turn.state === "made") turn.state = "cut";
    });
    if (this.isWanted) {
      if (wasOpen) this.complain("The connection to the server was lost; trying again …");
      else this.complain("The server does not answer; trying again …");
      setTimeout(() => this.isWanted && this.open(), RETRY);
    }
    this.changed();
  }

  send(type, fields = {}) {
    if (this.isOpen) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  // A block from the microphone.
  hear(samples) {
    this.send("input_audio_buffer.append", { audio: toBase64(samples) });
  }

  set(settings) {
    this.settings = settings;
    const { voice, seed, temperature } = settings;
    const audio = { input: { transcription: {} }, output: { voice: voice || null } };
    const usdm = { seed, temperature, partial_transcripts: true, hold_at_once: true };
    this.send("session.update", { session: { type: "realtime", audio, usdm } });
  }

  // Stop the reply that is made or played, and say how much of it was heard.
  silence() {
    const { item, isPlaying, playedMs } = this.speaker;
    const running = this.response?.item;
    if (running) this.silenced.add(running);
    this.speaker.stop();
    if (item && (isPlaying || item === running)) this.cut(item, playedMs);
  }

  interrupt() {
    if (this.response) this.send("response.cancel");
    this.silence();
    this.changed();
  }

  cut(item, playedMs) {
    const turn = this.find(item);
    turn.state = "cut";
    const madeMs = Math.floor(turn.sound.length / 24);
    this.send("conversation.item.truncate", {
      item_id: item,
      content_index: 0,
      audio_end_ms: Math.min(playedMs, madeMs),
    });
  }

  tellPlayed() {
    const { item, isPlaying, playedMs } = this.speaker;
    if (item && isPlaying) this.send("output_audio_buffer.played", { item_id: item, audio_end_ms: playedMs });
  }

  // Put a turn in the place of one, and let go of all that came after it.
  replace(place, turns) {
    this.silence();
    this.turns.slice(place).forEach(({ id }) => this.send("conversation.item.delete", { item_id: id }));
    this.turns = [...this.turns.slice(0, place), ...turns];
    if (this.isOpen) turns.forEach((turn) => this.restore(turn));
    this.changed();
  }

  // Words that the server does not know, or no longer.
  restore(turn) {
    if (!turn.heard.trim()) return;
    const isUser = turn.role === "user";
    const content = [{ type: isUser ? "input_text" : "output_text", text: turn.heard }];
    const item = { id: turn.id, type: "message", role: isUser ? "user" : "assistant", content };
    this.send("conversation.item.create", { item });
  }

  find(id, role = "agent") {
    const known = this.turns.find((turn) => turn.id === id);
    if (known) return known;
    const turn = { id, role, text: "", heard: "", units: [], sound: new Int16Array(), state: "made" };
    this.turns.push(turn);
    return turn;
  }

  receive(event) {
    this.handlers[event.type]?.(event);
    this.changed();
  }

  handlers = {
    "session.created": () => {
      this.isOpen = true;
      this.complain("");
      this.set(this.settings);
      this.turns.forEach((turn) => this.restore(turn));
    },
    "input_audio_buffer.speech_started": ({ item_id }) => {
      this.isHearing = true;
      this.silence();
      this.find(item_id, "user");
    },
    "output_audio_buffer.held": () => this.speaker.hold(),
    "output_audio_buffer.resumed": () => this.speaker.release(),
    "input_audio_buffer.partial_transcript": ({ item_id, transcript }) => {
      const turn = this.find(item_id, "user");
      turn.text = turn.heard = transcript;
    },
    "input_audio_buffer.speech_stopped": () => {
      this.isHearing = false;
    },
    "conversation.item.input_audio_transcription.completed": ({ item_id, transcript }) => {
      const turn = this.find(item_id, "user");
      turn.text = turn.heard = transcript;
      turn.state = "said";
      this.send("conversation.item.retrieve", { item_id });
    },
    "conversation.item.input_audio_transcription.failed": ({ item_id }) => {
      this.find(item_id, "user").state = "said";
    },
    "response.output_item.added": ({ response_id, item }) => {
      this.response = { id: response_id, item: item.id };
      this.find(item.id);
    },
    "response.output_audio_transcript.delta": ({ item_id, delta }) => {
      const turn = this.find(item_id);
      turn.text += delta;
      turn.heard = turn.text;
    },
    "response.output_audio.delta": ({ item_id, delta }) => {
      if (this.silenced.has(item_id)) return;
      const samples = fromBase64(delta);
      const turn = this.find(item_id);
      const sound = new Int16Array(turn.sound.length + samples.length);
      sound.set(turn.sound);
      sound.set(samples, turn.sound.length);
      turn.sound = sound;
      this.speaker.play(item_id, samples);
    },
    "response.done": ({ response }) => {
      this.response = null;
      const item = response.output[0];
      if (response.status === "failed") this.complain(response.status_details.error.message);
      if (!item) return;
      const turn = this.find(item.id);
      if (turn.state === "made") turn.state = "said";
      this.send("conversation.item.retrieve", { item_id: item.id });
    },
    "conversation.item.truncated": ({ item_id }) => this.send("conversation.item.retrieve", { item_id }),
    "conversation.item.retrieved": ({ item }) => {
      const [part] = item.content;
      if (!part?.audio) return;
      const turn = this.find(item.id, item.role === "user" ? "user" : "agent");
      const rest = part.usdm.unheard_transcript || "";
      turn.heard = part.transcript || "";
      turn.text = rest ? `${turn.heard} ${rest}`.trim() : turn.heard || turn.text;
      turn.sound = fromBase64(part.audio);
      turn.units = part.usdm.units;
      if ("heard_ms" in part.usdm) turn.state = "cut";
    },
    error: ({ error }) => {
      // Nobody spoke in what was taken for a turn, or a turn went meanwhile: no news for the person.
      if (["input_audio_buffer_commit_empty", "item_not_found", "response_cancel_not_active"].includes(error.code)) {
        this.turns = this.turns.filter((turn) => turn.role === "agent" || turn.state !== "made");
      } else this.complain(error.message);
    },
  };
}
