// A turn laid open: units heard, transcript, reply, units said. Each can be changed, and what follows made again.
import { fromBase64 } from "./sound.js";

const STAGES = `
<label class="chain-turn">Turn <select></select></label>
<p class="chain-none">Nothing has been said yet.</p>
<ol class="chain-stages">
  <li><h4>Units heard</h4><canvas height="36" role="img" aria-label="Units heard"></canvas>
    <button type="button" data-play="heard">Play</button>
    <button type="button" data-again="heard">Again from here</button></li>
  <li><h4><label for="chain-transcript">Transcript</label></h4><textarea id="chain-transcript" rows="2"></textarea>
    <button type="button" data-again="transcript">Again from here</button></li>
  <li><h4><label for="chain-reply">Reply</label></h4><textarea id="chain-reply" rows="2"></textarea>
    <button type="button" data-again="reply">Again from here</button></li>
  <li><h4>Units said</h4><canvas height="36" role="img" aria-label="Units said"></canvas>
    <button type="button" data-play="said">Play</button>
    <button type="button" data-again="said">Again from here</button></li>
</ol>`;

// Each unit as a bar of its own colour: runs of the same unit look like one.
const draw = (canvas, units) => {
  canvas.width = Math.max(1, units.length) * 3;
  const brush = canvas.getContext("2d");
  units.forEach((unit, place) => {
    brush.fillStyle = `hsl(${(unit * 137.5) % 360} 65% ${45 + (unit % 4) * 7}%)`;
    brush.fillRect(3 * place, 0, 3, canvas.height);
  });
  canvas.title = units.join(" ");
};

export class Chain {
  // `again` is given a turn as far as it stands, and returns all of it or null.
  constructor(place, session, again) {
    Object.assign(this, { place, session, again });
    place.innerHTML = STAGES;
    this.choice = place.querySelector("select");
    this.choice.onchange = () => this.show();
    [this.heard, this.said] = place.querySelectorAll("canvas");
    [this.transcript, this.reply] = place.querySelectorAll("textarea");
    place.onclick = ({ target }) => {
      if (target.dataset.play) this.play(target.dataset.play);
      if (target.dataset.again) this.makeAgain(target.dataset.again);
    };
  }

  // What the person said, and the answer if there is one.
  get questions() {
    return this.session.turns.flatMap((turn, at) => (turn.role === "user" && turn.text ? [at] : []));
  }

  get chosen() {
    const at = Number(this.choice.value);
    const question = this.session.turns[at];
    const answer = this.session.turns[at + 1];
    return { at, question, answer: answer?.role === "agent" ? answer : null };
  }

  show() {
    const { questions, session } = this;
    const names = questions.map((at) => [at, session.turns[at].text.slice(0, 60)]);
    const wanted = JSON.stringify(names);
    if (wanted !== this.named) {
      const isNew = questions.length !== this.choice.length;
      const before = this.choice.value;
      this.named = wanted;
      this.choice.replaceChildren(...names.map(([at, name]) => new Option(name, at)));
      this.choice.value = isNew ? questions.at(-1) : before;
    }
    this.place.classList.toggle("empty", !questions.length);
    if (!questions.length) return;
    const { question, answer } = this.chosen;
    const shown = JSON.stringify([question.id, question.text, question.units, answer?.text, answer?.units]);
    if (shown === this.shown) return; // what is being written stays
    this.shown = shown;
    draw(this.heard, question.units);
    draw(this.said, answer?.units || []);
    this.transcript.value = question.text;
    this.reply.value = answer?.text || "";
    this.place.querySelectorAll("[data-play=heard], [data-again=heard]").forEach((button) => {
      button.disabled = !question.units.length;
    });
    this.place.querySelectorAll("[data-play=said], [data-again=said]").forEach((button) => {
      button.disabled = !answer?.units.length;
    });
  }

  get history() {
    const before = this.session.turns.slice(0, this.chosen.at);
    return before.filter(({ heard }) => heard.trim()).map(({ role, heard }) => ({ role, text: heard.trim() }));
  }

  // The units' own sound: what of the recording the model has heard, or what it has said.
  async play(which) {
    const { question, answer } = this.chosen;
    const made = await this.busy(() => this.again({ said: (which === "heard" ? question : answer).units }));
    if (made) this.session.speaker.play(`${which} ${Date.now()}`, fromBase64(made.audio));
  }

  // `stage` and what comes before it stand.
  async makeAgain(stage) {
    const { at, question, answer } = this.chosen;
    const asked = { history: this.history };
    const units = question.units.length ? question.units : null;
    if (stage === "heard" || this.transcript.value === question.text) asked.heard = units;
    if (stage !== "heard") asked.transcript = this.transcript.value;
    if (stage === "reply" || stage === "said") asked.reply = this.reply.value;
    if (stage === "said") asked.said = answer.units;
    const made = await this.busy(() => this.again(asked));
    if (!made) return;
    const fresh = () => `item_${crypto.randomUUID()}`;
    const sound = fromBase64(made.audio);
    const asks = { ...question, id: fresh(), text: made.transcript, heard: made.transcript };
    const says = { id: fresh(), role: "agent", text: made.reply, heard: made.reply, units: made.said, sound };
    this.session.replace(at, [asks, { ...says, state: "said" }]);
    this.session.speaker.play(says.id, sound);
    this.session.changed();
  }

  async busy(work) {
    const buttons = [...this.place.querySelectorAll("button")].filter((button) => !button.disabled);
    buttons.forEach((button) => (button.disabled = true));
    this.place.setAttribute("aria-busy", "true");
    try {
      return await work();
    } finally {
      buttons.forEach((button) => (button.disabled = false));
      this.place.removeAttribute("aria-busy");
    }
  }
}
