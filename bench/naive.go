package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"strings"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// naiveSchema is the table of the specification, as it stands there. [seed 003 8.1]
const naiveSchema = `
CREATE TABLE devices (
    device_id TEXT PRIMARY KEY,
    mac_address TEXT UNIQUE,
    device_secret_hash TEXT,
    name TEXT,
    online BOOLEAN DEFAULT 0,
    firmware_version TEXT,
    config_version INTEGER DEFAULT 0,
    wifi_rssi INTEGER,
    radar_connected BOOLEAN DEFAULT 1,
    last_seen DATETIME,
    first_seen DATETIME,
    provisioned_at DATETIME,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX idx_devices_online ON devices(online);
CREATE INDEX idx_devices_version ON devices(firmware_version);`

// naive is the hook that one writes first: it decodes a state message and runs the specification's UPDATE, which is a
// durable transaction of its own, before mochi acknowledges the message. [seed 003 5.1]
type naive struct {
	mqtt.HookBase
	db     *sql.DB
	update *sql.Stmt
}

// newNaive starts mochi with the naive hook on a database of its own.
func newNaive(s start) (*mochi, reply, error) {
	db, err := sql.Open("sqlite", "file:"+s.Dir+"/naive.db?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, reply{}, err
	}
	db.SetMaxOpenConns(1)
	h := &naive{db: db}
	if err := h.prepare(s.Devices); err != nil {
		return nil, reply{}, errors.Join(err, db.Close())
	}
	m, hello, err := newMochi(s, h)
	if err != nil {
		return nil, reply{}, errors.Join(err, db.Close())
	}
	m.after = db.Close
	return m, hello, nil
}

func (h *naive) prepare(devices int) error {
	if _, err := h.db.Exec(naiveSchema); err != nil {
		return err
	}
	tx, err := h.db.Begin()
	if err != nil {
		return err
	}
	for i := range devices {
		d := deviceAt(i)
		if _, err := tx.Exec(`INSERT INTO devices (device_id, mac_address, name) VALUES (?, ?, ?)`, d.id, string(d.mac), "Sensor"); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	h.update, err = h.db.Prepare(`UPDATE devices SET online = ?, firmware_version = ?, last_seen = ?, wifi_rssi = ?,
		config_version = ?, radar_connected = ? WHERE device_id = ?`)
	return err
}

// ID implements mqtt.Hook.
func (h *naive) ID() string { return "naive" }

// Provides implements mqtt.Hook.
func (h *naive) Provides(b byte) bool { return bytes.IndexByte([]byte{mqtt.OnPublish}, b) >= 0 }

// OnPublish implements mqtt.Hook.
func (h *naive) OnPublish(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	var state struct {
		Online          bool   `json:"online"`
		FirmwareVersion string `json:"firmware_version"`
		WifiRSSI        int    `json:"wifi_rssi"`
		ConfigVersion   int    `json:"config_version"`
		RadarConnected  bool   `json:"radar_connected"`
	}
	if err := json.Unmarshal(pk.Payload, &state); err != nil {
		return pk, packets.ErrRejectPacket
	}
	id := strings.Split(pk.TopicName, "/")[1]
	_, err := h.update.Exec(state.Online, state.FirmwareVersion, time.Now().UTC().Format(time.RFC3339Nano), state.WifiRSSI,
		state.ConfigVersion, state.RadarConnected, id)
	if err != nil {
		return pk, packets.ErrRejectPacket
	}
	return pk, nil
}
