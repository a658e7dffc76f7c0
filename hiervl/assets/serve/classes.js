// The table of classes. Text goes into the page as text, never as markup.
const list = element.querySelector(".class-rows");
const initial = JSON.stringify(props.value);

function field(row, type, className, label, value) {
  const input = document.createElement("input");
  input.type = type;
  input.className = className;
  input.setAttribute("aria-label", label);
  input.title = label;
  if (type === "checkbox") input.checked = value;
  else input.value = value;
  row.append(input);
  return input;
}

function addRow(entry) {
  const row = document.createElement("div");
  row.className = "class-row";
  row.setAttribute("role", "group");
  row.dataset.background = entry.background ? "yes" : "";
  field(row, "checkbox", "show", "show this class", entry.show);
  field(row, "color", "color", "colour", entry.color);
  const name = field(row, "text", "name", "name", entry.name);
  name.placeholder = "name";
  const phrases = field(row, "text", "phrases", "phrases for CLIP, separated by semicolons", entry.phrases);
  phrases.placeholder = "phrases; separated by semicolons";
  const remove = document.createElement("button");
  remove.type = "button";
  remove.className = "remove";
  remove.textContent = "×";
  remove.title = "remove this class";
  remove.setAttribute("aria-label", remove.title);
  remove.addEventListener("click", () => { row.remove(); send(); });
  row.append(remove);
  list.append(row);
  return name;
}

function read() {
  return [...list.children].map((row) => ({
    show: row.querySelector(".show").checked,
    color: row.querySelector(".color").value,
    name: row.querySelector(".name").value,
    phrases: row.querySelector(".phrases").value,
    background: row.dataset.background === "yes",
  }));
}

function send() {
  props.value = read();
  trigger("edit");
}

function freeColor() {
  // Steps of the golden ratio on the colour circle, as for classes without a colour of their own.
  const hue = (list.children.length * 0.618034) % 1;
  const channel = (offset) => {
    const distance = Math.abs((((hue + offset) % 1) + 1) % 1 * 6 - 3) - 1;
    return Math.round(55 + 165 * Math.min(1, Math.max(0, distance))).toString(16).padStart(2, "0");
  };
  return `#${channel(0)}${channel(2 / 3)}${channel(1 / 3)}`;
}

list.addEventListener("change", send);
element.querySelector(".add").addEventListener("click", () => {
  addRow({ show: true, color: freeColor(), name: "", phrases: "", background: false }).focus();
});
element.querySelector(".all").addEventListener("click", () => {
  const boxes = [...list.querySelectorAll(".show")];
  const show = boxes.some((box) => !box.checked);
  boxes.forEach((box) => { box.checked = show; });
  send();
});
element.querySelector(".reset").addEventListener("click", () => {
  list.replaceChildren();
  JSON.parse(initial).forEach(addRow);
  send();
});
JSON.parse(initial).forEach(addRow);
