package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
)

// The demonstration's props: what is there to be tried, made through the API as an
// administrator does.
const (
	demoPlan    = "demo-1gb"
	demoSIM     = "8988000000000000017"
	demoKey     = "demo"  // id of the key that signs events
	demoRelease = "1.3.0" // the simulator's devices run 1.2.0
)

// stage is what was put up: "" where there is nothing of a kind.
type stage struct {
	DeviceID  string // the device that has everything
	ReleaseID string
}

// makeIngestKey makes a key that signs events, unless the settings have one, and returns
// the file that holds its secret; "" without one.
func makeIngestKey(c *app.Config) (string, error) {
	if c.IngestKeys != "" {
		return "", nil
	}
	secret, path := rand.Text()+rand.Text(), filepath.Join(c.DataDir, "demo-ingest.key")
	c.IngestKeys = app.Secret(demoKey + ":" + secret)
	return path, os.WriteFile(path, []byte(secret), 0o600)
}

// setStage puts up what there is to be tried with devices, unless a demo before did.
func (d *demo) setStage(ctx context.Context, adminToken string, deviceIDs []string) (s stage, err error) {
	if len(deviceIDs) == 0 {
		return s, nil
	}
	s.DeviceID = deviceIDs[0]
	if d.app.Shop() {
		if err := d.stockShop(ctx, adminToken, s.DeviceID); err != nil {
			return s, fmt.Errorf("putting a data plan on sale: %w", err)
		}
	}
	if d.app.Film() {
		for _, id := range deviceIDs {
			if err := d.giveVideo(ctx, adminToken, id, id == s.DeviceID); err != nil {
				return s, fmt.Errorf("giving %s video: %w", id, err)
			}
		}
	}
	s.ReleaseID, err = d.release(ctx, adminToken)
	if err != nil {
		err = fmt.Errorf("releasing a firmware: %w", err)
	}
	return s, err
}

// stockShop puts a data plan on sale and a SIM card into a device.
func (d *demo) stockShop(ctx context.Context, adminToken, deviceID string) error {
	var sold struct {
		Plans []struct {
			ID string `json:"plan_id"`
		} `json:"plans"`
	}
	if err := d.client.get(ctx, "/admin/plans?limit=200", adminToken, &sold); err != nil {
		return err
	}
	for _, p := range sold.Plans {
		if p.ID == demoPlan {
			return nil
		}
	}
	sim := strings.NewReader("iccid,device_id\n" + demoSIM + "," + deviceID + "\n")
	if err := d.client.exchange(ctx, http.MethodPost, "/admin/sims/import", adminToken, "text/csv", sim, nil); err != nil {
		return err
	}
	return d.client.send(ctx, http.MethodPost, "/admin/plans", adminToken, map[string]any{
		"plan_id": demoPlan, "name": "1 GB for 30 days", "amount": 990, "currency": "eur", "days": 30, "data_mb": 1024,
		"carrier_package": "DEMO1G30", "capabilities": []string{"live_view"},
	}, nil)
}

// giveVideo names a device's stream and channel. Its trial entitles it to be watched; to
// be seen by a model, and to have its clips downloaded, it is when all is true.
func (d *demo) giveVideo(ctx context.Context, adminToken, deviceID string, all bool) error {
	var now struct {
		Video struct {
			Stream *string `json:"stream_name"`
		} `json:"video"`
	}
	path := "/admin/devices/" + deviceID
	if err := d.client.get(ctx, path, adminToken, &now); err != nil || now.Video.Stream != nil {
		return err
	}
	if all {
		for _, capability := range []string{"ai_summary", "clip_download"} {
			if err := d.client.send(ctx, http.MethodPost, path+"/entitlements", adminToken, map[string]any{"capability": capability}, nil); err != nil {
				return err
			}
		}
	}
	name := "demo-" + deviceID[:12]
	return d.client.send(ctx, http.MethodPatch, path, adminToken, map[string]any{"video": map[string]string{"stream_name": name, "channel_name": name}}, nil)
}

// release is the id of a firmware that no device runs yet.
func (d *demo) release(ctx context.Context, adminToken string) (string, error) {
	type release struct {
		ID      string `json:"release_id"`
		Version string `json:"version"`
	}
	var list struct {
		Releases []release `json:"releases"`
	}
	if err := d.client.get(ctx, "/admin/releases?limit=200", adminToken, &list); err != nil {
		return "", err
	}
	for _, r := range list.Releases {
		if r.Version == demoRelease {
			return r.ID, nil
		}
	}
	var made release
	err := d.client.send(ctx, http.MethodPost, "/admin/releases", adminToken, map[string]any{
		"version": demoRelease, "url": "https://updates.example.com/" + demoRelease + ".bin", "sha256": strings.Repeat("ab", 32), "notes": "Nobody downloads it: the devices are simulated.",
	}, &made)
	return made.ID, err
}

// send sends a value as JSON.
func (c demoClient) send(ctx context.Context, method, path, token string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return c.exchange(ctx, method, path, token, "application/json", bytes.NewReader(text), into)
}
