"""A device on paho-mqtt: provisions, reports its state, says so, and stays until
standard input ends. Arguments: host, port, CA file, device id, MAC, secret, and the
MQTT version, 4 or 5."""

import json
import sys
import threading

import paho.mqtt.client as mqtt

host, port, ca, device_id, mac, secret, version = sys.argv[1:]
base = "opticworks/" + device_id + "/"
v5 = version == "5"
step = threading.Semaphore(0)
acknowledged = set()
answer = {}


def on_connect(client, userdata, flags, rc, properties=None):
    if rc != 0:
        print("refused:", rc, flush=True)
        sys.exit(3)
    step.release()


def on_subscribe(client, userdata, mid, granted, properties=None):
    step.release()


def on_publish(client, userdata, mid):
    acknowledged.add(mid)
    step.release()


def on_message(client, userdata, message):
    answer.update(json.loads(message.payload))
    step.release()


def wait(what):
    if not step.acquire(timeout=15):
        print("timeout:", what, flush=True)
        sys.exit(4)


options = {} if v5 else {"clean_session": True}
client = mqtt.Client(client_id=device_id, protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311, **options)
client.username_pw_set(device_id, secret)
client.tls_set(ca_certs=ca)
client.on_connect, client.on_subscribe = on_connect, on_subscribe
client.on_publish, client.on_message = on_publish, on_message
client.will_set(base + "state", json.dumps({"online": False}), qos=1, retain=True)
client.connect(host, int(port), keepalive=30)
client.loop_start()
wait("CONNACK")
client.subscribe(base + "provision/response", qos=1)
wait("SUBACK")
client.publish(base + "provision", json.dumps({
    "device_id": device_id, "mac_address": mac, "firmware_version": "3.1.4", "timestamp": "2026-01-15T10:00:00Z",
}), qos=1)
wait("PUBACK of provision")
wait("provision/response")
if answer.get("status") != "registered":
    print("not registered:", answer, flush=True)
    sys.exit(5)
client.publish(base + "state", json.dumps({
    "online": True, "firmware_version": "3.1.4", "uptime_sec": 42, "wifi_rssi": -61,
}), qos=1, retain=True)
wait("PUBACK of state")
print("reported", flush=True)
sys.stdin.read()
client.disconnect()
client.loop_stop()
