package e2e_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// errTimeout is a packet that was not answered in time.
var errTimeout = errors.New("no answer in time")

// Dial connects a device over TLS with MQTT 3.1.1, as an ESP32 does. change may
// alter the options and may be nil. The client does not reconnect by itself.
func (c *Cloud) Dial(d Device, change func(*mqtt.ClientOptions)) (mqtt.Client, error) {
	c.t.Helper()
	o := mqtt.NewClientOptions().AddBroker("tls://"+c.MQTTS()).
		SetClientID(d.ID).SetUsername(d.ID).SetPassword(d.Secret).SetTLSConfig(c.TLS()).
		SetProtocolVersion(4).SetKeepAlive(30*time.Second).SetAutoReconnect(false).SetConnectRetry(false).
		SetBinaryWill(d.Topic("state"), []byte(`{"online":false}`), 1, true)
	if change != nil {
		change(o)
	}
	client := mqtt.NewClient(o)
	return client, wait(client.Connect())
}

// Connect is Dial that must succeed, and ends with the test.
func (c *Cloud) Connect(d Device) mqtt.Client {
	c.t.Helper()
	client, err := c.Dial(d, nil)
	if err != nil {
		c.t.Fatalf("device %s: %v", d.ID, err)
	}
	c.t.Cleanup(func() { client.Disconnect(0) })
	return client
}

// Report publishes a state with QoS 1 and waits for its PUBACK.
func Report(client mqtt.Client, d Device, uptime int) error {
	payload := fmt.Sprintf(`{"online":true,"firmware_version":"1.2.3","uptime_sec":%d,"wifi_rssi":-50}`, uptime)
	return wait(client.Publish(d.Topic("state"), 1, true, payload))
}

// Provision publishes a provisioning request and waits for its PUBACK.
func Provision(client mqtt.Client, d Device) error {
	return wait(client.Publish(d.Topic("provision"), 1, false, fmt.Sprintf(provisionOf, d.ID, d.MAC)))
}

func wait(token mqtt.Token) error {
	if !token.WaitTimeout(15 * time.Second) {
		return errTimeout
	}
	return token.Error()
}

// withCertificate logs in by a client certificate instead of a password.
func withCertificate(cert tls.Certificate) func(*mqtt.ClientOptions) {
	return func(o *mqtt.ClientOptions) {
		o.TLSConfig.Certificates = []tls.Certificate{cert}
		o.SetPassword("")
	}
}
