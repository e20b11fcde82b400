// Draws the pictures of a page, those that wait when they are asked for.
async function draw(box) {
  try {
    await whenBokeh();
    const item = await itemOf(box);
    box.id ||= `picture-${Math.random().toString(36).slice(2)}`;
    const views = await Bokeh.embed.embed_item(item.bokeh, box.id);
    const view = [...views][0];
    if (item.kind === "matrix") {
      const of = {};
      for (const name of ["source", "error", "keys", "coverage"]) of[name] = await planeOf(item[name]);
      box.picture = new Matrix(box, item, view, { of });
    } else {
      box.picture = new Points(box, item, view);
    }
    box.dataset.drawn = "yes";
  } catch (error) {
    box.textContent = `No picture: ${error.message}.`;
    box.dataset.drawn = "no";
  }
}

function start() {
  document.head.append(element("style", "", STYLE));
  for (const box of document.querySelectorAll(".picture")) {
    if (!box.dataset.waits) draw(box);
  }
  // a picture that waits is drawn when it is asked for
  for (const button of document.querySelectorAll("button[data-draws]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const box = document.getElementById(button.dataset.draws);
      button.hidden = true;
      box.parentElement.hidden = false;
      draw(box).then(() => box.focus());
    });
  }
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
