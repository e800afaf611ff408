/**
 * Staying at the bottom while an answer grows, until the reader scrolls up; a button leads back.
 *
 * @module
 */

const NEAR = 48; // pixels from the bottom that still count as being there

/** @param {HTMLElement} scroller @param {HTMLElement} content @param {HTMLButtonElement} button */
export function followBottom(scroller, content, button) {
  let sticking = true;
  let lastTop = 0;
  const distance = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
  const down = () => {
    scroller.scrollTop = scroller.scrollHeight;
    lastTop = scroller.scrollTop;
  };
  const stick = () => {
    sticking = true;
    button.hidden = true;
    down();
  };
  scroller.addEventListener(
    "scroll",
    () => {
      // Only going up lets go: growing content makes scroll events too.
      if (scroller.scrollTop < lastTop - 1 && distance() > NEAR) sticking = false;
      else if (distance() <= NEAR) sticking = true;
      lastTop = scroller.scrollTop;
      button.hidden = sticking;
    },
    { passive: true },
  );
  button.addEventListener("click", stick);
  new ResizeObserver(() => sticking && down()).observe(content);
  new ResizeObserver(() => sticking && down()).observe(scroller);
  return { stick };
}
