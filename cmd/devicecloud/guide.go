package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// guide is what the demo says when it is ready: addresses, logins, and lines that
// work when they are pasted into another terminal of the same directory.
type guide struct {
	*demo
	stage
	userToken, adminToken, userID string
	took                          time.Duration
}

func (g guide) print(w io.Writer) error {
	if err := g.keepTokens(); err != nil {
		return err
	}
	addresses := g.app.Addresses()
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if g.DeviceID != "" {
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
	line("  user           %s, who bought the devices; logged in until %s, token in %s",
		demoUser, time.Now().Add(demoTokens).Format("15:04"), g.path("demo-user.token"))
	for i, s := range g.app.StandIns() {
		line("  %-13s  for %s at %s", map[bool]string{true: "stand-ins"}[i == 0], s.Partner, s.URL)
	}
	line("  log            %s", g.logPath)
	line("\nTo try in another terminal of this directory, each line by itself:")
	for _, part := range g.parts(port) {
		line("\n%s", part.name)
		for _, example := range part.examples {
			line("  # %s\n  %s", example.what, example.command)
		}
	}
	line("\nMore: docs/tutorial.md is a device's life step by step; docs/video.md, docs/dataplans.md, docs/webhooks.md, docs/mqtt.md.")
	line("Ctrl-C stops everything; deleting %s undoes it.", g.config.DataDir)
	_, err = io.WriteString(w, b.String())
	return err
}

// path is a file of the demonstration's.
func (g guide) path(name string) string { return filepath.Join(g.config.DataDir, name) }

// keepTokens writes what the examples log in with, so that they are lines that a person
// can read: the user's token, and for either a configuration of curl.
func (g guide) keepTokens() error {
	for name, text := range map[string]string{
		"demo-user.token": g.userToken + "\n",
		"demo-user.curl":  curlConfig(g.userToken),
		"demo-admin.curl": curlConfig(g.adminToken),
	} {
		if err := os.WriteFile(g.path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// curlConfig is what `curl -K` reads: a login, JSON, and no noise.
func curlConfig(token string) string {
	return "header = \"Authorization: Bearer " + token + "\"\nheader = \"Content-Type: application/json\"\nsilent\nshow-error\nwrite-out = \"\\n\"\n"
}

// part is examples of one kind.
type part struct {
	name     string
	examples []example
}

type example struct{ what, command string }

func (g guide) parts(port string) (all []part) {
	user, admin := g.curl("demo-user.curl"), g.curl("demo-admin.curl")
	staff := part{"Staff", []example{{"the fleet in numbers", admin("", "/admin/stats")}}}
	if g.DeviceID == "" {
		return []part{{"People", []example{{"the devices of " + demoUser, user("", "/api/devices?limit=3")}}}, staff}
	}
	device := "/api/devices/" + g.DeviceID
	root := topic.Root(g.config.TopicRoot)
	subscribe := fmt.Sprintf(`mosquitto_sub -h localhost -p %s --cafile %s -u %s -i %s -P "$(cat %s)" -v`,
		port, quote(g.app.CAFile()), quote("u:"+g.userID), quote("u:"+g.userID+":demo"), quote(g.path("demo-user.token")))
	all = append(all, part{"People and their devices", []example{
		{"the devices of " + demoUser, user("", "/api/devices?limit=3")},
		{"one device", user("", device)},
		{"its connections, with the reason why each ended", user("", device+"/connections")},
		{"its live state: the retained one at once, then each report", subscribe + " -t " + quote(root.Build(g.DeviceID, topic.State)) + " -C 2"},
		{"the live state of all of them", subscribe + " -t " + quote(string(root)+"/+/state") + " -C 50"},
	}})
	if g.app.Film() {
		film := part{"Video, at the stand-in for AWS, which has no pictures", []example{
			{"watch it live: open the url of the answer in a browser", user("", device+"/stream")},
			{"or peer to peer: a signed address of its channel, and TURN servers", user("-d '{}'", device+"/webrtc")},
		}}
		film.examples = append(film.examples, g.motion(user, device)...)
		all = append(all, film)
	}
	if g.app.Shop() {
		all = append(all, part{"Data plan, at the stand-ins for Stripe and the SIM carrier: no money moves", []example{
			{"buy one; open the checkout_url of the answer and press Pay", user(`-H "Idempotency-Key: demo-$(date +%s)" -d `+
				quote(fmt.Sprintf(`{"plan_id":%q,"device_id":%q}`, demoPlan, g.DeviceID)), "/api/checkout/data-plan")},
			{"what was bought: ACTIVE once the carrier has confirmed it", user("", "/api/purchases")},
			{"the device's SIM card", user("", device+"/sim")},
		}})
	}
	staff.examples = append(staff.examples,
		example{"bring firmware " + demoRelease + " to half of the fleet, and see the devices restart into it", admin("-d "+quote(fmt.Sprintf(`{"release_id":%q,"percent":50}`, g.ReleaseID)), "/admin/rollouts")},
		example{"how far the rollouts are", admin("", "/admin/rollouts")},
		example{"a webhook: what listens on port 9999 gets a signed message when a device comes or goes", admin("-d "+quote(`{"url":"http://127.0.0.1:9999/","events":["device.online","device.offline"]}`), "/admin/webhooks")},
	)
	return append(all, staff)
}

// motion is an event of a camera that somebody else sends, and what a model says of it.
// Nothing of it without a key of the demonstration's own.
func (g guide) motion(user func(options, path string) string, device string) []example {
	if g.ingestKey == "" {
		return nil
	}
	const route = "/api/ingest/iot-events"
	now := time.Now()
	id := fmt.Sprint("door-", now.Unix())
	event := fmt.Sprintf(`{"event_id":%q,"device_id":%q,"type":"motion","occurred_at":%q}`, id, g.DeviceID, now.UTC().Format(time.RFC3339))
	sign := `openssl dgst -sha256 -r -hmac "$(cat ` + quote(g.ingestKey) + `)"`
	return []example{
		{"its motion detector, in a cloud of its own, sends a signed event", `t=$(date +%s); b=` + quote(event) + `; curl -sS -H 'Content-Type: application/json' -H "X-Ingest-Key-Id: ` + demoKey +
			`" -H "X-Ingest-Timestamp: $t" -H "X-Ingest-Signature: v1=$(printf %s "$t.POST.` + route + `.$b" | ` + sign + ` | cut -c1-64)" -d "$b" ` + g.client.base + route},
		{"what a model sees in the picture of that event", user("-X POST", device+"/events/"+id+"/classify")},
	}
}

// curl makes lines of curl with a login.
func (g guide) curl(login string) func(options, path string) string {
	return func(options, path string) string {
		if options != "" {
			options += " "
		}
		return "curl -K " + quote(g.path(login)) + " " + options + quote(g.client.base+path)
	}
}

// quote makes one word of a shell's command line.
func quote(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
