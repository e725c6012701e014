
"use strict";
(function () {
  var page = document.getElementById("magic");
  var found = /^#token=([A-Za-z0-9_-]{43})$/.exec(location.hash);
  if (!found) {
    document.getElementById("broken").hidden = false;
    return;
  }
  // The token stays out of the history of a browser that others use.
  history.replaceState(null, "", location.pathname);
  var link = page.dataset.app + "#token=" + found[1];
  var open = document.getElementById("open");
  open.href = link;
  document.getElementById("ready").hidden = false;
  location.href = link;
})();
