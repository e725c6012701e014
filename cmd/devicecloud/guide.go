package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// guide is what the demo says when it is ready: addresses, logins, and lines that
// work when they are pasted into another terminal of the same directory.
type guide struct {
	*demo
	userToken, userID string
	deviceIDs         []string
	took              time.Duration
}

func (g guide) print(w io.Writer) error {
	if err := os.WriteFile(g.tokenPath(), []byte(g.userToken+"\n"), 0o600); err != nil {
		return err
	}
	addresses := g.app.Addresses()
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if len(g.deviceIDs) > 0 {
		line("\n%d devices are online, %.1f s after the first one started.\n", g.cmd.Devices, g.took.Seconds())
	} else {
		line("\nThe cloud is ready, without devices.\n")
	}
	_, port, err := net.SplitHostPort(addresses.MQTTTLS)
	if err != nil {
		return err
	}
	line("  API            %s", g.client.base)
	line("  MQTT over TLS  mqtts://localhost:%s, CA %s", port, g.app.CAFile())
	if addresses.MQTT != "" {
		line("  plain MQTT     mqtt://%s", addresses.MQTT)
	}
	if addresses.Metrics != "" {
		line("  metrics        http://%s/metrics", addresses.Metrics)
	}
	line("  administrator  %s, password %s", g.admin.Email, g.admin.Password.Reveal())
	line("  user           %s, who bought the devices", demoUser)
	line("  user's token   good for 12 hours, also in %s:", g.tokenPath())
	line("                 %s", g.userToken)
	line("  log            %s", g.logPath)
	line("\nTo try in another terminal of this directory:")
	for _, example := range g.examples(port) {
		line("\n  # %s\n  %s", example.what, example.command)
	}
	line("\nCtrl-C stops everything; deleting %s undoes it.", g.config.DataDir)
	_, err = io.WriteString(w, b.String())
	return err
}

// tokenPath is the file that holds the user's token, so that the examples are lines
// a person can read.
func (g guide) tokenPath() string { return filepath.Join(g.config.DataDir, "demo-user.token") }

type example struct{ what, command string }

func (g guide) examples(port string) []example {
	token := "$(cat " + quote(g.tokenPath()) + ")"
	bearer := `-H "Authorization: Bearer ` + token + `"`
	login := quote(fmt.Sprintf(`{"email":%q,"password":%q}`, g.admin.Email, g.admin.Password.Reveal()))
	if g.admin.File != "" {
		login = quote("@" + g.admin.File)
	}
	all := []example{
		{"the devices of " + demoUser, "curl -sS " + bearer + " " + quote(g.client.base+"/api/devices?limit=3")},
		{"the fleet in numbers, as administrator", "curl -sS -H \"Authorization: Bearer $(curl -sS -H 'Content-Type: application/json' -d " + login + " " +
			g.client.base + `/admin/auth/login | sed 's/.*"access_token":"\([^"]*\)".*/\1/')" ` + g.client.base + "/admin/stats"},
	}
	if len(g.deviceIDs) == 0 {
		return all
	}
	id := g.deviceIDs[0]
	root := topic.Root(g.config.TopicRoot)
	subscribe := fmt.Sprintf("mosquitto_sub -h localhost -p %s --cafile %s -u %s -i %s -P \"%s\" -v",
		port, quote(g.app.CAFile()), quote("u:"+g.userID), quote("u:"+g.userID+":demo"), token)
	if g.app.Shop() {
		all = append(all, example{
			"buy a data plan for a device; open the checkout_url of the answer: it is a stand-in for Stripe, no money moves",
			"curl -sS " + bearer + ` -H "Idempotency-Key: demo-$(date +%s)" -H 'Content-Type: application/json' -d ` +
				quote(fmt.Sprintf(`{"plan_id":%q,"device_id":%q}`, demoPlan, slices.Min(g.deviceIDs))) + " " + g.client.base + "/api/checkout/data-plan",
		}, example{"what was bought: ACTIVE once it is paid and the carrier's stand-in has confirmed it", "curl -sS " + bearer + " " + g.client.base + "/api/purchases"})
	}
	return append(all,
		example{"one device", "curl -sS " + bearer + " " + g.client.base + "/api/devices/" + id},
		example{"its connections, with the reason why each ended", "curl -sS " + bearer + " " + g.client.base + "/api/devices/" + id + "/connections"},
		example{"its live state: the retained one at once, then each report", subscribe + " -t " + quote(root.Build(id, topic.State)) + " -C 2"},
		example{"the live state of all of them", subscribe + " -t " + quote(string(root)+"/+/state") + " -C 50"},
	)
}

// quote makes one word of a shell's command line.
func quote(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
