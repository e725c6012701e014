// A device on mqtt.js over WebSocket: provisions, reports its state, says so, and
// stays until standard input ends. Arguments: URL, device id, MAC, secret, and the
// MQTT version, 4 or 5.
'use strict'
const mqtt = require('../node_modules/mqtt')

const [url, id, mac, secret, version] = process.argv.slice(2)
const base = `opticworks/${id}/`

function fail (what, err) {
  console.log(`${what}: ${err && err.message}`)
  process.exit(3)
}

const client = mqtt.connect(url, {
  clientId: id,
  username: id,
  password: secret,
  protocolVersion: Number(version),
  keepalive: 30,
  reconnectPeriod: 0,
  will: { topic: base + 'state', payload: '{"online":false}', qos: 1, retain: true }
})
client.on('error', err => fail('error', err))

const answer = new Promise(resolve => client.on('message', (topic, payload) => resolve(JSON.parse(payload))))

client.on('connect', async () => {
  try {
    await client.subscribeAsync(base + 'provision/response', { qos: 1 })
    await client.publishAsync(base + 'provision', JSON.stringify({
      device_id: id, mac_address: mac, firmware_version: '3.1.4', timestamp: '2026-01-15T10:00:00Z'
    }), { qos: 1 })
    const got = await answer
    if (got.status !== 'registered') fail('not registered', new Error(JSON.stringify(got)))
    await client.publishAsync(base + 'state', JSON.stringify({
      online: true, firmware_version: '3.1.4', uptime_sec: 42, wifi_rssi: -61
    }), { qos: 1, retain: true })
    console.log('reported')
  } catch (err) {
    fail('failed', err)
  }
})

process.stdin.resume()
process.stdin.on('end', () => client.end(false, {}, () => process.exit(0)))
