package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// demoLimit is how long a newcomer waits for the fleet at most.
const demoLimit = 60 * time.Second

// demoRun is a running `devicecloud demo`, after it has said what to try.
type demoRun struct {
	t        *testing.T
	cmd      *exec.Cmd
	dir      string
	text     string // what it printed
	stderr   *logBuffer
	commands []string // the lines to paste
	took     time.Duration
}

func startDemo(t *testing.T, dir string, settings map[string]string) *demoRun {
	t.Helper()
	env := map[string]string{
		"HTTP_ADDR": "127.0.0.1:0", "METRICS_ADDR": "127.0.0.1:0", "MQTT_TLS_ADDR": "127.0.0.1:0", "MQTT_ADDR": "127.0.0.1:0",
	}
	for name, value := range settings {
		env[name] = value
	}
	// The simulator is looked for beside the program.
	cmd := exec.Command(Binary(t, "devicecloud"), "demo")
	cmd.Dir, cmd.Env = dir, environ(env)
	d := &demoRun{t: t, cmd: cmd, dir: dir, stderr: &logBuffer{}}
	cmd.Stderr = d.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	watchdog := time.AfterFunc(2*demoLimit, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()
	var text strings.Builder
	said := false // what the next line is for
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		text.WriteString(line + "\n")
		if said {
			d.commands = append(d.commands, strings.TrimSpace(line))
		}
		said = strings.HasPrefix(line, "  # ")
		if strings.HasPrefix(line, "Ctrl-C stops") {
			d.took, d.text = time.Since(began), text.String()
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return d
		}
	}
	log, _ := os.ReadFile(filepath.Join(dir, "data", "demo.log"))
	t.Fatalf("the demo ended (%v) after saying:\n%s\n%s\nlog: %s", cmd.Wait(), text.String(), d.stderr.tail(50), log)
	return nil
}

// interrupt is Ctrl-C; it returns the exit code.
func (d *demoRun) interrupt() int {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
		d.t.Fatal(err)
	}
	_ = d.cmd.Wait() // the exit code says it all
	return d.cmd.ProcessState.ExitCode()
}

// paste runs a printed line in a shell, as a person does.
func (d *demoRun) paste(command string) string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 40*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", command)
	cmd.Dir = d.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("%s: %v\n%s", command, err, stderr.String())
	}
	return string(out)
}

// buy pastes the line that buys a data plan, pays at the stand-in, and waits until the
// plan has begun.
func (d *demoRun) buy(command string) {
	d.t.Helper()
	var answer struct {
		URL string `json:"checkout_url"`
	}
	if out := d.paste(command); json.Unmarshal([]byte(out), &answer) != nil || answer.URL == "" {
		d.t.Fatalf("%s printed %s", command, out)
	}
	res, err := http.PostForm(answer.URL, url.Values{"do": {"pay"}})
	if err == nil {
		_ = res.Body.Close() // where the buyer is sent to does not matter
	}
	list := d.command("/api/purchases")
	Await(d.t, 20*time.Second, func() bool { return strings.Contains(d.paste(list), `"status":"ACTIVE"`) }, func() string { return d.paste(list) })
}

// answer pastes the one line that has all of the words in it, and decodes what it prints.
func (d *demoRun) answer(into any, words ...string) {
	d.t.Helper()
	command := d.command(words...)
	if out := d.paste(command); json.Unmarshal([]byte(out), into) != nil {
		d.t.Fatalf("%s printed %s", command, out)
	}
}

// watch pastes the lines about video, as far as a stand-in without pictures goes.
func (d *demoRun) watch() {
	d.t.Helper()
	var player struct{ Protocol, Mode, URL string }
	d.answer(&player, "/stream")
	if player.Protocol != "hls" || player.Mode != "live" {
		d.t.Errorf("the player is %+v", player)
	}
	for accept, want := range map[string]string{"text/html": "stand-in", "*/*": "#EXTM3U"} {
		r, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, player.URL, nil)
		if err != nil {
			d.t.Fatal(err)
		}
		r.Header.Set("Accept", accept)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			d.t.Fatal(err)
		}
		page, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(page), want) {
			d.t.Errorf("the address answers %d %s: %v", res.StatusCode, page, err)
		}
	}
	var viewer struct {
		Mode string
		URL  string `json:"wss_url"`
		ICE  []any  `json:"ice_servers"`
	}
	d.answer(&viewer, "/webrtc")
	conn, _, err := websocket.DefaultDialer.DialContext(d.t.Context(), viewer.URL, nil)
	if err != nil || viewer.Mode != "url" || len(viewer.ICE) < 2 {
		d.t.Fatalf("the viewer is %+v: %v", viewer, err)
	}
	_ = conn.Close()

	var taken struct{ Accepted, Duplicates int }
	for i, want := range []int{1, 0} { // pasted again it is the same event
		if d.answer(&taken, "X-Ingest-Signature"); taken.Accepted != want || taken.Duplicates != i {
			d.t.Errorf("the event is answered %+v", taken)
		}
	}
	var seen struct{ Label, Summary string }
	if d.answer(&seen, "/classify"); seen.Label != "person" || seen.Summary == "" {
		d.t.Errorf("the model sees %+v", seen)
	}
}

// operate pastes the lines of staff.
func (d *demoRun) operate() {
	d.t.Helper()
	var rollout struct {
		ID string `json:"rollout_id"`
	}
	if d.answer(&rollout, "release_id", "/admin/rollouts"); rollout.ID == "" {
		d.t.Error("no rollout begins")
	}
	list := d.command("demo-admin.curl http", "/admin/rollouts")
	Await(d.t, 60*time.Second, func() bool {
		var all struct {
			Rollouts []struct {
				ID        string `json:"rollout_id"`
				Status    string
				Succeeded int
			}
		}
		if err := json.Unmarshal([]byte(d.paste(list)), &all); err != nil {
			d.t.Fatal(err)
		}
		for _, r := range all.Rollouts {
			if r.ID == rollout.ID {
				return r.Status == "finished" && r.Succeeded > 0
			}
		}
		return false
	}, func() string { return "the rollout does not finish: " + d.paste(list) })
	var hook struct{ ID, Secret string }
	if d.answer(&hook, "/admin/webhooks"); hook.ID == "" || !strings.HasPrefix(hook.Secret, "whsec_") {
		d.t.Errorf("the webhook is %+v", hook)
	}
}

// command is the one printed line that has all of the words in it.
func (d *demoRun) command(words ...string) string {
	d.t.Helper()
	var found []string
	for _, c := range d.commands {
		all := true
		for _, w := range words {
			all = all && strings.Contains(c, w)
		}
		if all {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		d.t.Fatalf("%d printed lines with %q in:\n%s", len(found), words, d.text)
	}
	return found[0]
}

func TestDemoJourney(t *testing.T) {
	t.Parallel()
	skipWithout(t, "mosquitto_sub", haveProgram("mosquitto_sub"))
	skipWithout(t, "curl", haveProgram("curl"))
	dir := t.TempDir()
	d := startDemo(t, dir, nil)
	t.Logf("25 devices were online after %v", d.took)
	if d.took > demoLimit {
		t.Errorf("the demo took %v, a newcomer waits %v", d.took, demoLimit)
	}
	checkDemo(t, d)
	if code := d.interrupt(); code != 0 {
		t.Errorf("Ctrl-C ended the demo with exit code %d\n%s", code, d.stderr.tail(20))
	}
	if orphans, err := exec.Command("pgrep", "-f", dir).Output(); err == nil {
		t.Errorf("Ctrl-C left processes behind: %s", orphans)
	}

	t.Run("a second run on the same data works as well", func(t *testing.T) {
		again := startDemo(t, dir, nil)
		checkDemo(t, again)
		if code := again.interrupt(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("the printed token lives for the 12 hours that it says", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(dir, "data", "demo-user.token"))
		if err != nil {
			t.Fatal(err)
		}
		var claims struct{ IAT, EXP int64 }
		parts := strings.Split(strings.TrimSpace(string(text)), ".")
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err == nil {
			err = json.Unmarshal(payload, &claims)
		}
		if err != nil || claims.EXP-claims.IAT != 12*3600 {
			t.Errorf("it lives %d s, %v", claims.EXP-claims.IAT, err)
		}
	})
	t.Run("everything lies in ./data", func(t *testing.T) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != 1 || entries[0].Name() != "data" {
			t.Errorf("the demo left %v", entries)
		}
		info, err := os.Stat(filepath.Join(dir, "data", "demo-admin.json"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the administrator's login: %v, %v", info, err)
		}
	})
}

// checkDemo pastes every printed line.
func checkDemo(t *testing.T, d *demoRun) {
	t.Helper()
	d.t = t
	var stats struct {
		Total  int `json:"total_devices"`
		Online int `json:"online_devices"`
	}
	if err := json.Unmarshal([]byte(d.paste(d.command("curl", "/admin/stats"))), &stats); err != nil || stats.Total != 25 || stats.Online != 25 {
		t.Errorf("the fleet in numbers: %+v, %v", stats, err)
	}
	var list struct {
		Devices []struct{ Status, Role string }
	}
	if err := json.Unmarshal([]byte(d.paste(d.command("curl", "/api/devices?"))), &list); err != nil || len(list.Devices) == 0 ||
		list.Devices[0].Status != "online" || list.Devices[0].Role != "owner" {
		t.Errorf("the user's devices: %+v, %v", list, err)
	}
	d.watch()
	ran := 2 + 4 + 3 // with those of watch and operate
	for _, command := range d.commands {
		switch {
		case regexp.MustCompile(`/(stream|webrtc|classify)\b|X-Ingest|/admin/`).MatchString(command):
		case strings.HasPrefix(command, "mosquitto_sub "):
			out := strings.TrimSpace(d.paste(command))
			for line := range strings.Lines(out) {
				topic, payload, _ := strings.Cut(strings.TrimSpace(line), " ")
				if !regexp.MustCompile(`^opticworks/[0-9a-f]{32}/state$`).MatchString(topic) || !json.Valid([]byte(payload)) {
					t.Errorf("%s printed %q", command, line)
				}
			}
			if len(out) == 0 {
				t.Errorf("%s printed nothing", command)
			}
			ran++
		case strings.Contains(command, "/api/checkout/data-plan"):
			d.buy(command)
			ran++
		case strings.Contains(command, "/api/purchases"):
			if out := d.paste(command); !strings.Contains(out, `"status":"ACTIVE"`) {
				t.Errorf("%s printed %s", command, out)
			}
			ran++
		case regexp.MustCompile(`/api/devices/[0-9a-f]{32}`).MatchString(command):
			var answer map[string]any
			if err := json.Unmarshal([]byte(d.paste(command)), &answer); err != nil || answer["error"] != nil {
				t.Errorf("%s answered %v (%v)", command, answer, err)
			}
			ran++
		}
	}
	d.operate()
	if ran != len(d.commands) {
		t.Errorf("%d of the %d printed lines were pasted:\n%s", ran, len(d.commands), d.text)
	}
}

func TestDemoWithoutDevices(t *testing.T) {
	t.Parallel()
	d := startDemo(t, t.TempDir(), map[string]string{"SIM": "0"})
	if !strings.Contains(d.text, "without devices") {
		t.Errorf("it says:\n%s", d.text)
	}
	if code := d.interrupt(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestDemoSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	t.Run("when a port is taken", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		for _, name := range []string{"HTTP_ADDR", "MQTT_TLS_ADDR"} {
			cmd := exec.Command(Binary(t, "devicecloud"), "demo")
			settings := map[string]string{
				"HTTP_ADDR": "127.0.0.1:0", "METRICS_ADDR": "127.0.0.1:0", "MQTT_TLS_ADDR": "127.0.0.1:0", "MQTT_ADDR": "127.0.0.1:0", "SIM": "0",
			}
			settings[name] = taken.Addr().String()
			cmd.Dir, cmd.Env = t.TempDir(), environ(settings)
			out, err := cmd.CombinedOutput()
			if err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "another program uses this port") ||
				!strings.Contains(string(out), name) || !strings.Contains(string(out), taken.Addr().String()) {
				t.Errorf("%s taken: %v\n%s", name, err, out)
			}
		}
	})
	t.Run("when the simulator dies", func(t *testing.T) {
		dir := t.TempDir()
		d := startDemo(t, dir, map[string]string{})
		out, err := exec.Command("pgrep", "-P", fmt.Sprint(d.cmd.Process.Pid)).Output()
		if err != nil {
			t.Fatalf("the simulator's process: %v", err)
		}
		var pid int
		if _, err := fmt.Sscan(string(out), &pid); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		Await(t, 10*time.Second, func() bool { return strings.Contains(d.stderr.String(), "the simulator died") },
			func() string { return "the demo says nothing:\n" + d.stderr.String() })
		if code := d.interrupt(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}
