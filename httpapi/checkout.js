
"use strict";
(function () {
  var status = document.getElementById("status");
  var found = /[?&]session_id=([A-Za-z0-9_-]{1,200})(&|$)/.exec(location.search);
  if (!found) {
    status.textContent = "This address is not complete. The app shows how the purchase stands.";
    return;
  }
  var words = {
    paid: "The payment has arrived. The plan starts as soon as the carrier confirms it; you can close this page.",
    processing: "The payment is being processed. You can close this page; the app shows how it goes on."
  };
  var left = 30;
  function ask() {
    fetch("/api/checkout/sessions/" + found[1], { credentials: "omit", cache: "no-store" }).then(function (answer) {
      if (answer.status === 404) {
        left = 0;
        throw new Error("unknown");
      }
      return answer.json();
    }).then(function (body) {
      status.textContent = words[body.status] || words.processing;
      if (body.status !== "paid") again();
    }, function () {
      status.textContent = "How the payment stands is not known here. The app shows it.";
      again();
    });
  }
  function again() {
    if (left-- > 0) setTimeout(ask, 2000);
  }
  ask();
})();
