import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** The JDK's HttpClient: {@code java Client.java LINES JOBS}, a line of JSON for each exchange. */
public class Client {
    static final HttpClient PLAIN = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    /** Offers HTTP/2 by `Upgrade: h2c`, as it does by default. */
    static final HttpClient UPGRADING = HttpClient.newHttpClient();

    static final ExecutorService THREADS = Executors.newCachedThreadPool();

    public static void main(String[] args) throws Exception {
        Map<String, String[]> table = new HashMap<>();
        for (String line : Files.readAllLines(Path.of(args[0]))) {
            String[] row = line.split("\t", -1);
            table.put(text(row[0]), row);
        }
        for (String line : Files.readAllLines(Path.of(args[1]))) {
            String[] job = line.split("\t");
            try {
                // The timeout of a request is for its head alone.
                System.out.println(THREADS.submit(() -> ask(job[0], table.get(job[1]), job[2])).get(12, TimeUnit.SECONDS));
            } catch (ExecutionException | TimeoutException error) {
                System.out.println("{\"run\":" + quoted(job[0]) + ",\"error\":" + quoted((error.getCause() == null ? error : error.getCause()).getClass().getSimpleName()) + "}");
            }
        }
        System.exit(0);
    }

    static byte[] bytes(String column) {
        return Base64.getDecoder().decode(column);
    }

    static String text(String column) {
        return new String(bytes(column), StandardCharsets.UTF_8);
    }

    static String ask(String run, String[] row, String base) throws Exception {
        String port = base.substring(base.lastIndexOf(':') + 1);
        String framing = text(row[4]);
        byte[] body = bytes(row[5]);
        HttpRequest.BodyPublisher publisher = framing.isEmpty() ? HttpRequest.BodyPublishers.noBody()
            : framing.equals("length") ? HttpRequest.BodyPublishers.ofByteArray(body)
            : HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body));
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(base + text(row[2]).replace("@PORT@", port)))
            .method(text(row[1]), publisher).timeout(Duration.ofSeconds(10))
            .header("x-run", run).header("x-case", text(row[0]));
        if (!text(row[14]).isEmpty()) {
            request.expectContinue(true);
        }
        for (String line : text(row[3]).lines().toList()) {
            String[] field = line.split(": ?", 2);
            if (!field[0].equals("expect")) {
                request.header(field[0], field[1]);
            }
        }
        HttpClient client = text(row[12]).isEmpty() ? PLAIN : UPGRADING;
        HttpResponse<InputStream> answer = client.send(request.build(), HttpResponse.BodyHandlers.ofInputStream());
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        byte[] buffer = new byte[65536];
        long size = 0, first = 0, last = 0;
        try (InputStream in = answer.body()) {
            for (int count; (count = in.read(buffer)) >= 0;) {
                if (count > 0) {
                    last = System.nanoTime();
                    first = size == 0 ? last : first;
                    size += count;
                    digest.update(buffer, 0, count);
                }
            }
        }
        List<String> fields = new ArrayList<>();
        answer.headers().map().forEach((name, values) ->
            values.forEach(value -> fields.add("[" + quoted(name) + "," + quoted(value) + "]")));
        return "{\"run\":" + quoted(run) + ",\"status\":" + answer.statusCode() + ",\"reason\":\"\",\"version\":"
            + quoted(answer.version() == HttpClient.Version.HTTP_2 ? "2.0" : "1.1")
            + ",\"fields\":[" + String.join(",", fields) + "],\"trailers\":[],\"hints\":[],\"size\":" + size
            + ",\"digest\":" + quoted(HexFormat.of().formatHex(digest.digest()))
            + ",\"streamed\":" + (last - first > 200_000_000L) + ",\"error\":null}";
    }

    static String quoted(String value) {
        StringBuilder out = new StringBuilder("\"");
        for (char each : String.valueOf(value).toCharArray()) {
            if (each == '"' || each == '\\' || each < ' ' || each > '~') {
                out.append(String.format("\\u%04x", (int) each));
            } else {
                out.append(each);
            }
        }
        return out.append('"').toString();
    }
}
