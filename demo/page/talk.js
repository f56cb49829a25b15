// The open microphone: <usdm-talk data-told='{"voices": [...], "temperature": 0, "token": null}'>.
import { Chain } from "./chain.js";
import { Session } from "./session.js";
import { openMicrophone, toBase64 } from "./sound.js";

const CARD = `
<section class="talk" aria-label="Talk">
  <div class="talk-bar">
    <button type="button" class="talk-button" aria-pressed="false">Talk</button>
    <div class="talk-state">
      <p class="talk-status" role="status">Press Talk, allow the microphone, and speak.</p>
      <div class="talk-level" role="meter" aria-label="Loudness of the microphone" aria-valuemin="0" aria-valuemax="100"
        aria-valuenow="0"><span></span></div>
    </div>
    <button type="button" class="talk-stop" disabled title="Or speak, or press Escape">Stop the reply</button>
  </div>
  <p class="talk-complaint" role="alert" hidden></p>
  <ol class="talk-log" aria-live="polite" aria-label="Conversation" tabindex="0"></ol>
  <details class="talk-settings"><summary>Voice and wording</summary>
    <div class="talk-fields">
      <label>Voice <select name="voice"><option value="">the model's own</option></select></label>
      <label>Temperature of the wording <input name="temperature" type="number" min="0" max="1.5" step="0.05"></label>
      <label>Seed <input name="seed" type="number" min="0" step="1" value="0"></label>
      <label>Reference voice, for what is made again below
        <input name="reference" type="file" accept="audio/*"></label>
    </div>
  </details>
  <details class="talk-chain"><summary>The chain of a turn</summary><div></div></details>
  <footer>
    <p>What you say is kept in this page and in the server's memory while you talk, to answer you, and written to no
      disk. It is gone from the server when you hang up, and from the page when you delete it or close the page.</p>
    <button type="button" class="talk-save" disabled>Download</button>
    <button type="button" class="talk-delete" disabled>Delete</button>
  </footer>
</section>`;

class Talk extends HTMLElement {
  connectedCallback() {
    if (this.session) return;
    const told = JSON.parse(this.dataset.told);
    this.innerHTML = CARD;
    this.piece = (name) => this.querySelector(`.talk-${name}`);
    this.field = (name) => this.querySelector(`[name=${name}]`);
    this.field("temperature").value = told.temperature;
    told.voices.forEach((voice) => this.field("voice").add(new Option(voice, voice)));
    this.field("voice").closest("label").hidden = !told.voices.length;
    this.session = new Session(
      told.token,
      () => this.show(),
      (words) => this.complain(words),
    );
    this.session.settings = this.settings();
    this.chain = new Chain(this.piece("chain").querySelector("div"), this.session, (asked) => this.again(asked));
    this.microphone = null;
    this.piece("button").onclick = () => (this.microphone ? this.hangUp() : this.talk());
    this.piece("stop").onclick = () => this.session.interrupt();
    this.piece("save").onclick = () => this.save();
    this.piece("delete").onclick = () => this.hangUp(true);
    this.piece("settings").onchange = () => this.session.set(this.settings());
    this.onEscape = (event) => event.key === "Escape" && this.session.interrupt();
    document.addEventListener("keydown", this.onEscape);
  }

  settings() {
    const number = (name) => Math.max(0, Number(this.field(name).value) || 0);
    return { voice: this.field("voice").value, temperature: number("temperature"), seed: Math.floor(number("seed")) };
  }

  async talk() {
    this.complain("");
    this.piece("button").disabled = true;
    try {
      this.microphone = await openMicrophone((samples) => {
        this.showLevel(samples);
        this.session.hear(samples);
      });
      await this.session.speaker.context.resume();
      this.session.open();
    } catch (error) {
      const why = { NotAllowedError: "it was not allowed", NotFoundError: "there is none" }[error.name];
      this.complain(
        `The microphone cannot be opened: ${why || error.message}. ` +
          "You can still type a question or drop a recording, under “Turn by turn” below.",
      );
    }
    this.piece("button").disabled = false;
    this.show();
  }

  hangUp(forget = false) {
    this.microphone?.close();
    this.microphone = null;
    this.showLevel(new Int16Array(1));
    this.complain("");
    if (forget) this.session.forget();
    else this.session.close();
    this.show();
  }

  complain(words) {
    this.piece("complaint").textContent = words;
    this.piece("complaint").hidden = !words;
  }

  showLevel(samples) {
    const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
    const decibels = 10 * Math.log10(power / 32768 ** 2 + 1e-10);
    const percent = Math.round(Math.max(0, Math.min(100, (100 * (decibels + 60)) / 50)));
    this.piece("level").setAttribute("aria-valuenow", percent);
    this.piece("level").firstElementChild.style.width = `${percent}%`;
  }

  status() {
    const { session } = this;
    if (!this.microphone) return session.turns.length ? "Hung up." : "Press Talk, allow the microphone, and speak.";
    if (!session.isOpen) return "Calling …";
    if (session.isHearing) return "Listening …";
    if (session.speaker.isPlaying) return "Speaking. Speak to interrupt.";
    return session.response ? "Thinking …" : "Your turn: speak.";
  }

  show() {
    const { session } = this;
    const button = this.piece("button");
    button.textContent = this.microphone ? "Hang up" : "Talk";
    button.setAttribute("aria-pressed", String(Boolean(this.microphone)));
    const status = this.status();
    if (this.piece("status").textContent !== status) this.piece("status").textContent = status;
    this.piece("stop").disabled = !session.response && !session.speaker.isPlaying;
    this.piece("save").disabled = this.piece("delete").disabled = !session.turns.length;
    this.showLog();
    this.chain.show();
    clearTimeout(this.later);
    if (session.speaker.isPlaying) this.later = setTimeout(() => this.show(), 200);
  }

  showLog() {
    const log = this.piece("log");
    const wanted = JSON.stringify(this.session.turns.map(({ id, text, heard, state }) => [id, text, heard, state]));
    if (wanted === this.shown) return;
    this.shown = wanted;
    log.replaceChildren(
      ...this.session.turns.map(({ role, text, heard, state }) => {
        const line = document.createElement("li");
        line.className = role;
        line.append(text ? heard : "…");
        if (text !== heard) {
          const rest = document.createElement("s");
          rest.title = "not heard: it was interrupted";
          rest.textContent = text.slice(heard.length);
          line.append(rest);
        }
        if (state === "cut") line.classList.add("cut");
        return line;
      }),
    );
    log.scrollTop = log.scrollHeight;
  }

  async post(path, body) {
    const token = this.session.token;
    const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
    const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
    if (answer.ok) return answer;
    throw new Error((await answer.json()).error.message);
  }

  // A turn from one of its stages on; see demo/again.py.
  async again(asked) {
    try {
      this.complain("");
      const [file] = this.field("reference").files;
      const reference = file ? toBase64(new Uint8Array(await file.arrayBuffer())) : null;
      return await (await this.post("page/again", { ...this.settings(), reference, ...asked })).json();
    } catch (error) {
      this.complain(error.message);
      return null;
    }
  }

  async save() {
    try {
      const { voice, seed } = this.settings();
      const turns = this.session.turns.map(({ role, text, heard, units, sound }) => {
        return { role, text, heard, units, audio: toBase64(sound) };
      });
      const answer = await this.post("page/conversation.zip", { turns, voice: voice || null, seed });
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await answer.blob());
      link.download = "conversation.zip";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    } catch (error) {
      this.complain(error.message);
    }
  }
}

customElements.define("usdm-talk", Talk);
