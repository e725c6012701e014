package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// flags is the command line.
type flags struct {
	Devices  int           `short:"n" default:"25" help:"How many devices; about 15,000 fit in a process."`
	URL      string        `default:"mqtts://127.0.0.1:8883" help:"Where the devices connect: mqtts:// or mqtt://."`
	CA       string        `placeholder:"FILE" help:"PEM file of the authority that signed the cloud's certificate; the system's when absent."`
	Scenario string        `default:"steady" enum:"steady,storm,takeover,flaky,crash-check" help:"steady, storm, takeover, flaky or crash-check."`
	Duration time.Duration `help:"How long; steady runs until Ctrl-C without it, flaky 30s, crash-check 1m."`
	JSON     bool          `help:"One JSON report on stdout."`

	API      string `placeholder:"URL" help:"The cloud's HTTP address, to enrol and to compare with the registry. Needs ADMIN_EMAIL and ADMIN_PASSWORD (or ADMIN_PASSWORD_FILE)."`
	NoEnroll bool   `help:"The devices are enrolled already."`
	Owner    string `placeholder:"EMAIL" help:"Record orders, so that the devices become this person's when they provision."`
	State    string `placeholder:"FILE" help:"Keep the identities there and resume with them. Holds secrets."`
	Seed     uint16 `default:"1" help:"The same seed makes the same devices."`
	Salt     string `default:"opticworks-rs1" help:"Salt of the device id."`
	Root     string `default:"opticworks" help:"Topic root."`

	MQTT              string        `name:"mqtt" default:"3.1.1" enum:"3.1.1,5,mixed" help:"Protocol version: 3.1.1, 5 or mixed."`
	Auth              string        `default:"secret" enum:"secret,hmac" help:"Credential: secret or hmac."`
	Interval          time.Duration `default:"5s" help:"Between two states of a device, give or take 20 %."`
	TelemetryInterval time.Duration `default:"60s" help:"Between two telemetry messages; 0 is off."`
	KeepAlive         time.Duration `default:"60s" help:"MQTT keep-alive, whole seconds."`
	ConnectRate       float64       `default:"500" help:"First connects a second."`
	ConnectTimeout    time.Duration `default:"20s" help:"From dialling to CONNACK."`
	BackoffBase       time.Duration `default:"1s" help:"Reconnect pause: a random time up to this, doubled with each failure,"`
	BackoffCap        time.Duration `default:"60s" help:"and up to this at most."`
	ESPIDF            bool          `name:"esp-idf" help:"Reconnect as esp-mqtt does: after 10 s, without jitter; resend after 1 s."`
	Firmware          string        `default:"1.2.0" help:"Firmware version that the devices report."`
	Commands          string        `default:"prompt" enum:"prompt,slow,failing,twice,silent,restarting" help:"How commands are treated: prompt, slow, failing, twice (answered), silent or restarting."`
	CommandTime       time.Duration `default:"2s" help:"How long a slow device takes for a command."`
	UpdateFailures    float64       `help:"Share of firmware updates that fail half way, 0 to 1; by seed and device."`
	UpdateLies        float64       `help:"Share of firmware updates that are said to have succeeded, and restart into the old version."`
	UpdateStep        time.Duration `default:"1s" help:"Between two states of a firmware update; a long one is a slow download."`
	BootTime          time.Duration `default:"1s" help:"How long a restart takes."`
	PressButton       bool          `help:"Answer ownership challenges as if somebody pressed the button."`
	FactoryReset      bool          `help:"Say when provisioning that somebody has pressed the reset button."`
	PacketSize        int           `help:"Largest packet that the firmware takes, in bytes: 1024 without it, with --video 4096; told to the cloud when it is not 1024."`
	Video             bool          `help:"The devices have a camera: they ask for credentials of AWS, and end viewers when they are told to."`
	ClaimCode         string        `placeholder:"CODE" help:"Pairing code that the first device presents after provisioning."`

	Waves     int           `default:"3" help:"storm: how often all connections drop."`
	Takeovers int           `default:"2000" help:"takeover: how many in all; the ids are the devices."`
	Ledger    string        `placeholder:"FILE" default:"firmware-sim.ledger" help:"crash-check: where acknowledged messages are noted."`
	Verify    bool          `help:"crash-check: only compare the ledger with the registry."`
	Settle    time.Duration `default:"15s" help:"How long the registry may take to agree."`
	BackTime  time.Duration `default:"2m" help:"How long a fleet may take to come up or back."`
}

// parse reads the arguments. done says that help was asked for and printed.
func (f *flags) parse(args []string, stdout io.Writer) (done bool, err error) {
	parser, err := kong.New(f,
		kong.Name("firmware-sim"),
		kong.Description("Simulates RS-1 devices against a devicecloud and compares what they know with its registry."),
		kong.Writers(stdout, io.Discard),
		kong.Exit(func(int) { done = true }),
	)
	if err != nil {
		return false, err
	}
	_, err = parser.Parse(args)
	return done, err
}

// options turns the flags into a run's options. The administrator's password comes from the environment, because
// everybody on the machine can read a command line.
func (f *flags) options(getenv func(string) string) (fleet.Options, error) {
	roots, err := fleet.ReadRoots(f.CA)
	if err != nil {
		return fleet.Options{}, fmt.Errorf("--ca: %w", err)
	}
	if _, _, err := mqttwire.ParseURL(f.URL); err != nil {
		return fleet.Options{}, fmt.Errorf("--url: %w", err)
	}
	o := fleet.Options{
		Behaviour: fleet.Behaviour{
			Root: f.Root, Auth: fleet.Auth(f.Auth), Mixed: f.MQTT == "mixed", KeepAlive: f.KeepAlive, Interval: f.Interval,
			TelemetryInterval: f.TelemetryInterval, ConnectTimeout: f.ConnectTimeout, BackoffBase: f.BackoffBase,
			BackoffCap: f.BackoffCap, ESPIDF: f.ESPIDF, Firmware: f.Firmware, Commands: fleet.Manner(f.Commands), CommandTime: f.CommandTime,
			UpdateFailures: f.UpdateFailures, UpdateLies: f.UpdateLies, OTAStep: f.UpdateStep, BootTime: f.BootTime, PressButton: f.PressButton, ClaimCode: f.ClaimCode,
			Reset: f.FactoryReset, PacketSize: f.PacketSize, Video: f.Video,
		},
		URL: f.URL, Roots: roots, Devices: f.Devices, Scenario: f.Scenario, Duration: f.Duration, Seed: f.Seed, Salt: f.Salt,
		State: f.State, ConnectRate: f.ConnectRate, NoEnrol: f.NoEnroll, Owner: f.Owner, Settle: f.Settle, BackTime: f.BackTime,
		Waves: f.Waves, Takeovers: f.Takeovers, Ledger: f.Ledger, Verify: f.Verify,
	}
	if f.MQTT == "5" {
		o.Version = mqttwire.V5
	}
	if f.API == "" {
		return o, o.Complete()
	}
	password, err := secret(getenv, "ADMIN_PASSWORD")
	if err != nil {
		return fleet.Options{}, err
	}
	if getenv("ADMIN_EMAIL") == "" || password == "" {
		return fleet.Options{}, fmt.Errorf("--api needs ADMIN_EMAIL and ADMIN_PASSWORD in the environment")
	}
	o.API = fleet.NewAPI(f.API, getenv("ADMIN_EMAIL"), password, roots)
	return o, o.Complete()
}

// secret reads NAME, or the file that NAME_FILE names.
func secret(getenv func(string) string, name string) (string, error) {
	if value := getenv(name); value != "" {
		return value, nil
	}
	path := getenv(name + "_FILE")
	if path == "" {
		return "", nil
	}
	raw, err := os.ReadFile(path)
	return strings.TrimRight(string(raw), "\r\n"), err
}
